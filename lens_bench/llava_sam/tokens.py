"""The slow LLaMA tokenizer as transformers 4.31 ran it, which is what the released weights were trained with.

Text next to an added token is stripped on the side of the token, and every chunk between added tokens is tokenised for
itself, with sentencepiece's space in front. Later versions do neither: they leave the spaces (tokens 29871) or drop the
first one, and both cost accuracy (GLaMM issues 20 and 54, LISA issues 55 and 193). ``<s>``, ``</s>`` and ``<unk>``
divide text too but strip nothing. So the rule is written out here, on sentencepiece itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from lens_bench.checkpoint_files import read_object
from lens_bench.errors import CheckpointError

SEG = "[SEG]"
_MODEL, _ADDED, _CONFIG = "tokenizer.model", "added_tokens.json", "tokenizer_config.json"


class Pieces(Protocol):
    """What is used of ``sentencepiece.SentencePieceProcessor``."""

    def encode(self, text: str) -> list[int]:
        """Ids of a chunk."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of ids."""
        ...

    def get_piece_size(self) -> int:
        """Size of the vocabulary."""
        ...

    def id_to_piece(self, number: int) -> str:
        """One piece."""
        ...

    def bos_id(self) -> int:
        """Id that begins a sequence."""
        ...

    def eos_id(self) -> int:
        """Id that ends a sequence."""
        ...

    def unk_id(self) -> int:
        """Id of what is not in the vocabulary."""
        ...


class SegTokenizer:
    """A sentencepiece vocabulary with added tokens, ``[SEG]`` among them.

    Args:
        pieces: The vocabulary.
        added: Added tokens with their ids.
    """

    def __init__(self, pieces: Pieces, added: dict[str, int]) -> None:
        self._pieces = pieces
        self._added = dict(added)
        self.bos, self.eos, self.seg = pieces.bos_id(), pieces.eos_id(), added[SEG]
        plain = {pieces.id_to_piece(i): i for i in (self.bos, self.eos, pieces.unk_id())}
        self._whole = plain | self._added
        longest_first = sorted(self._whole, key=len, reverse=True)
        self._split = re.compile("({})".format("|".join(map(re.escape, longest_first))))
        self._names = {number: name for name, number in self._whole.items()}

    @property
    def added(self) -> dict[str, int]:
        """Added tokens with their ids."""
        return dict(self._added)

    @property
    def special(self) -> frozenset[str]:
        """Texts that are read as one token and divide what is around them."""
        return frozenset(self._whole)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without a beginning of sequence."""
        parts = self._split.split(text)
        ids: list[int] = []
        for place, part in enumerate(parts):
            if place % 2:
                ids.append(self._whole[part])
                continue
            if place > 0 and parts[place - 1] in self._added:
                part = part.lstrip()
            if place + 1 < len(parts) and parts[place + 1] in self._added:
                part = part.rstrip()
            if part:
                ids += self._pieces.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids: added tokens by their names, the end of the sequence left out."""
        words: list[str] = []
        run: list[int] = []
        for number in [*ids, self.eos]:
            if number not in self._names:
                run.append(int(number))
                continue
            if run:
                words.append(self._pieces.decode(run))
                run = []
            if number not in (self.bos, self.eos):
                words.append(self._names[number])
        return " ".join(words)


def load_tokenizer(folder: Path, vocabulary: int, needed: Iterable[str] = ()) -> SegTokenizer:
    """Read ``tokenizer.model`` and the added tokens of a checkpoint folder.

    Args:
        folder: The checkpoint.
        vocabulary: Rows of its word embeddings.
        needed: Tokens beside ``[SEG]`` that the prompts use.

    Raises:
        CheckpointError: A file is missing or broken, a token is missing, or an id lies beyond the embeddings.
    """
    pieces = _sentencepiece(folder / _MODEL)
    added = _added_tokens(folder, pieces.get_piece_size())
    missing = [token for token in (SEG, *needed) if token not in added]
    if missing:
        raise CheckpointError(
            f"the tokenizer of {folder} has no {', '.join(missing)}",
            "added_tokens.json belongs to the released checkpoint: the tokenizer of the base model or of a v0 "
            "checkpoint does not fit",
        )
    beyond = sorted(token for token, number in added.items() if number >= vocabulary)
    if beyond:
        raise CheckpointError(
            f"{folder}: {', '.join(beyond)} has an id beyond the {vocabulary} rows of the word embeddings",
            "weights and tokenizer belong to different checkpoints",
        )
    return SegTokenizer(pieces, added)


def _sentencepiece(path: Path) -> Pieces:
    if not path.is_file():
        raise CheckpointError(
            f"no file {path}", "the released folder holds tokenizer.model; a tokenizer.json does not replace it"
        )
    from sentencepiece import SentencePieceProcessor

    try:
        pieces: Pieces = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path} is not a sentencepiece model: {reason}", "fetch it again") from None
    return pieces


def _added_tokens(folder: Path, size: int) -> dict[str, int]:
    """Added tokens from ``added_tokens.json``, else from what later versions of transformers write."""
    if (folder / _ADDED).is_file():
        found = read_object(folder / _ADDED)
    elif (folder / _CONFIG).is_file():
        table = read_object(folder / _CONFIG).get("added_tokens_decoder")
        rows = table.items() if isinstance(table, dict) else ()
        found = {str(row.get("content")): int(n) for n, row in rows if isinstance(row, dict) and int(n) >= size}
    else:
        found = {}
    wrong = [token for token, number in found.items() if not isinstance(number, int)]
    if wrong:
        raise CheckpointError(f"{folder / _ADDED} gives no whole number for {wrong[0]!r}")
    return {token: number for token, number in found.items() if isinstance(number, int)}
