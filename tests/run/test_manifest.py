"""What a manifest says in words."""

from __future__ import annotations

import pytest

from lens_bench.run.manifest import commit


@pytest.mark.parametrize(
    ("git", "words"),
    [
        ({"commit": "0123456789abcdef", "dirty": False}, "0123456789ab"),
        ({"commit": "0123456789abcdef", "dirty": True}, "0123456789ab with uncommitted changes"),
        (None, ""),
    ],
)
def test_the_commit_in_words(git: object, words: str) -> None:
    assert commit({"git": git, "lens_bench": "0.1.0"}) == words
    assert commit({}) == ""
