"""The guard in processes of its own: what it defines, and that it leaves a working torchvision alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

needs_torchvision = pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="no torchvision here")


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


@needs_torchvision
def test_torchvision_and_its_users_import_behind_the_guard() -> None:
    code = (
        "from lens_bench.torchvision_guard import guard_torchvision as guard\n"
        "guard(); print(guard())\n"
        "import torchvision, segment_anything\n"
        "from transformers import Qwen2VLImageProcessor, Sam2Model\n"
        "print(guard())"
    )
    assert run(code).split() == ["False", "False"]


@needs_torchvision
def test_a_loaded_torchvision_is_left_alone() -> None:
    code = (
        "import sys, types\n"
        "sys.modules['torchvision'] = types.ModuleType('torchvision')\n"
        "from lens_bench.torchvision_guard import guard_torchvision\n"
        "print(guard_torchvision())"
    )
    assert run(code) == "False"


def test_calling_an_operator_that_was_only_declared_fails() -> None:
    code = (
        "import torch\n"
        "from lens_bench.torchvision_guard import guard_torchvision\n"
        "declared = guard_torchvision()\n"
        "try:\n"
        "    torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)\n"
        "    print('works')\n"
        "except (NotImplementedError, AttributeError):\n"
        "    print('refused')\n"
        "print(declared)"
    )
    outcome, declared = run(code).split()
    assert outcome == ("refused" if declared == "True" else outcome)
