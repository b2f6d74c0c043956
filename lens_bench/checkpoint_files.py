"""Which files of a checkpoint folder are read, and one digest of them all: the identity of a model.

Every loader takes its weight files from ``weight_files``, so that loaders cannot disagree about a folder, and every
adapter takes its identity from ``digest``. torch is not imported here: a run asks for the digest before it loads.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lens_bench.errors import CheckpointError
from lens_bench.parsing import parse_json

# Weight formats in the order in which loaders prefer them: suffix, glob pattern, name of a file that holds everything.
_FORMATS = {
    ".safetensors": ("*.safetensors", "model"),
    ".bin": ("pytorch_model*.bin", "pytorch_model"),
    ".pt": ("*.pt", None),
}
# Everything beside the weights that transformers or a loader of this package reads: configurations of the model, the
# processors, generation and adapters, shard indexes, tokenizers, chat templates.
_SETTINGS = (
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
    "additional_chat_templates/*.jinja",
)
# What this package's trainer writes beside a model about it: no loader reads it.
_ABOUT = ("digests.json", "evaluation.json")
# What transformers, tokenizers and safetensors raise where a folder is not what they expect. ``ImportError``: a package
# that only the checkpoint wants.
TRANSFORMERS_FAILS = (
    OSError, ValueError, RuntimeError, KeyError, IndexError, TypeError, AttributeError, ImportError, RecursionError,
)  # fmt: skip
_LONGEST_NAME = 255  # of a file, on the file systems in use
# Formats that are named in a message where nothing readable is found.
_OTHER_WEIGHTS = (*_FORMATS, ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


def visible(folder: Path, pattern: str) -> list[Path]:
    """Files of a pattern, sorted; hidden ones, such as the ``._*`` that macOS leaves beside each, are passed by."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def weight_files(folder: Path, suffixes: Sequence[str] = (".safetensors",)) -> tuple[Path, ...]:
    """The weight files of a checkpoint folder, by its index where it has one.

    Args:
        folder: The checkpoint.
        suffixes: Formats that the caller can read; the first one that the folder holds is taken.

    Raises:
        CheckpointError: There are none; the index is broken, names files that are not there or that lie outside the
            folder; or the folder holds weights twice, of which loaders take different ones.
    """
    for suffix in suffixes:
        if found := _of_format(folder, suffix):
            return found
    other = sorted(f.name for f in visible(folder, "*") if f.suffix in _OTHER_WEIGHTS)
    held = f"it holds {', '.join(other[:5])}, which cannot be read here" if other else "is this a checkpoint?"
    wanted = " or ".join(suffix.removeprefix(".") for suffix in suffixes)
    raise CheckpointError(f"no {wanted} files in {folder}", held)


def digest(*checkpoints: Path) -> str:
    """SHA-256 of everything in the checkpoints of a model that can change an answer.

    Covers the weights and all settings that lie beside them (configuration, generation settings, tokenizer, chat
    templates, processors), by name and content. Neither the folder's place nor the order of a listing matters. Weights
    in a format that loaders pass over, documents and code are left out: nothing reads them.

    Args:
        checkpoints: Each a folder, or a single weight file, whose name does not matter.

    Raises:
        CheckpointError: There is no checkpoint, or a file cannot be read.
    """
    total = hashlib.sha256()
    for path in checkpoints:
        if not path.exists():
            raise CheckpointError(f"no checkpoint {path}")
        read = (*weight_files(path, tuple(_FORMATS)), *_settings(path)) if path.is_dir() else ()
        files = {file.relative_to(path).as_posix(): file for file in read} or {"": path}
        for name in sorted(files):
            total.update(name.encode() + b"\0" + _content(files[name]))
        total.update(b"\0")
    return total.hexdigest()


def _settings(folder: Path) -> tuple[Path, ...]:
    """Everything beside the weights that a loader may read, in no particular order."""
    found = (f for pattern in _SETTINGS for f in visible(folder, pattern) if not f.is_dir())
    return tuple(f for f in found if f.name not in _ABOUT)


@contextmanager
def reading(failure: str, hint: str = "") -> Iterator[None]:
    """Around calls of transformers on a checkpoint folder: what they raise becomes one line.

    Raises:
        CheckpointError: ``failure`` with the reason behind it, and ``hint``.
    """
    try:
        yield
    except Exception as error:
        # tokenizers raises the bare class; anything else that is not in the list is a defect of ours.
        if type(error) is not Exception and not isinstance(error, TRANSFORMERS_FAILS):
            raise
        raise CheckpointError(f"{failure}: {' '.join(str(error).split())[:200]}", hint) from None


def read_object(path: Path, hint: str = "is this a checkpoint?") -> dict[str, object]:
    """A JSON object of a checkpoint folder.

    Raises:
        CheckpointError: It is missing (with ``hint``), cannot be read, or is not a JSON object.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"no file {path}", hint) from None
    except (ValueError, OSError):
        raise CheckpointError(f"{path} is not readable JSON") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def require_no_code(folder: Path) -> None:
    """Refuse a folder that wants Python code of its own to be run, before transformers sees it.

    transformers would ask on standard input whether to run it. That it has a class of its own for some architectures
    is no reason to accept: what the checkpoint's author meant is then not what runs.

    Raises:
        CheckpointError: A JSON file has an entry ``auto_map``, or there is a ``custom_generate`` folder.
    """
    for file in visible(folder, "*.json"):
        if file.name.endswith(".index.json") or file.name in ("tokenizer.json", "vocab.json", "added_tokens.json"):
            continue  # tables of names, where the word is a token like any other
        if _has_key(read_object(file), "auto_map"):
            raise CheckpointError(
                f"{file} wants the checkpoint's own Python code to be run (auto_map), which is never done",
                "use a folder in transformers' own format; where transformers has the architecture, remove auto_map",
            )
    if (folder / "custom_generate").exists():
        raise CheckpointError(
            f"{folder / 'custom_generate'} holds Python code of the checkpoint's own, which is never run",
            "remove it to decode as transformers does",
        )


def require_merged(folder: Path) -> None:
    """Refuse a folder with a LoRA adapter, which transformers would apply or not by what is installed.

    Raises:
        CheckpointError: There is an ``adapter_config.json``.
    """
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} is a LoRA adapter, not a merged checkpoint", "merge it into its base model first"
        )


def require_unquantised(folder: Path) -> None:
    """Refuse weights that are stored quantised, which this package's loaders cannot check against the architecture.

    Raises:
        CheckpointError: ``config.json`` has an entry ``quantization_config``.
    """
    path = folder / "config.json"
    settings = read_object(path).get("quantization_config") if path.is_file() else None
    if settings:
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        raise CheckpointError(
            f"{folder} holds quantised weights ({method or 'quantization_config in config.json'})",
            "name the unquantised checkpoint, with load_in=8bit or 4bit if it is too large, or use engine endpoint",
        )


# ---------------------------------------------------------------------------------------------- weight files


def _of_format(folder: Path, suffix: str) -> tuple[Path, ...]:
    pattern, stem = _FORMATS[suffix]
    files, indexes = visible(folder, pattern), visible(folder, f"{pattern}.index.json")
    if len(indexes) > 1:
        raise _twice(folder, indexes)
    if indexes:
        named = _indexed(indexes[0])
        stem = indexes[0].name.removesuffix(f"{suffix}.index.json")
        if left := [f for f in files if f.name not in named and _belongs(f.name, stem, suffix)]:
            raise _twice(folder, [*left, indexes[0]])
        return tuple(folder / name for name in named)
    whole = folder / f"{stem}{suffix}"
    if stem is not None and whole in files:
        if left := [f for f in files if f != whole and _belongs(f.name, stem, suffix)]:
            raise _twice(folder, [whole, *left])
        return (whole,)
    if stem is None and len(files) > 1:
        raise CheckpointError(
            f"{folder} holds {len(files)} {suffix} files: {_names(files)}", "name one of them instead of the folder"
        )
    return tuple(files)


def _indexed(index: Path) -> list[str]:
    """Names of the shards of an index, each once, in order."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(n, str) and n for n in names.values()):
        raise CheckpointError(f"{index} is not an index of shards")
    found = sorted(set(names.values()))
    for name in found:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise CheckpointError(f"{index} names the shard {name[:200]!r}, which lies outside the folder")
    missing = [name for name in found if len(name) > _LONGEST_NAME or not (index.parent / name).is_file()]
    if missing:
        shown = ", ".join(name[:_LONGEST_NAME] for name in missing[:10])
        raise CheckpointError(f"{index.parent} lacks {len(missing)} of {len(found)} shards: {shown}", "fetch it again")
    return found


def _belongs(name: str, stem: str, suffix: str) -> bool:
    """Whether a file is the whole or a shard of the weights that an index or a whole file is of."""
    return re.fullmatch(rf"{re.escape(stem)}(-\d+-of-\d+)?{re.escape(suffix)}", name) is not None


def _twice(folder: Path, files: Sequence[Path]) -> CheckpointError:
    return CheckpointError(
        f"{folder} holds weights twice, and loaders disagree on which they read: {_names(files)}",
        "remove what does not belong to the checkpoint",
    )


def _names(files: Iterable[Path]) -> str:
    return ", ".join([f.name for f in files][:5])


# ---------------------------------------------------------------------------------------------- content


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").digest()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from None


def _has_key(content: object, key: str) -> bool:
    if isinstance(content, dict):
        return bool(content.get(key)) or any(_has_key(value, key) for value in content.values())
    return isinstance(content, list) and any(_has_key(value, key) for value in content)
