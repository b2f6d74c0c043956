"""The tokenizer's rule around added tokens, on LLaMA's own ids where they are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from lens_bench.errors import CheckpointError, DataError
from lens_bench.llava_sam.conversation import Template, Turn
from lens_bench.llava_sam.tiny import BYTE, CONTROL, NORMAL, UNKNOWN, Piece, sentencepiece_model, tiny_pieces
from lens_bench.llava_sam.tokens import SegTokenizer, load_tokenizer

# Ids of LLaMA's vocabulary for the start of every prompt of LISA and GLaMM, and for what stands around an answer.
KNOWN = {
    319: "▁A", 13563: "▁chat", 1546: "▁between", 263: "▁a", 12758: "▁curious", 5199: "▁human", 322: "▁and", 385: "▁an",
    23116: "▁artificial", 21082: "▁intelligence", 20255: "▁assistant", 450: "▁The", 4076: "▁gives", 8444: "▁helpful",
    13173: "▁detailed", 1248: "▁pol", 568: "ite", 6089: "▁answers", 304: "▁to", 278: "▁the", 5155: "▁questions",
    3148: "▁US", 1001: "ER", 1799: "SS", 9047: "IST", 13566: "ANT", 1724: "▁What", 338: "▁is", 297: "▁in", 869: "▁.",
    29871: "▁", 29901: ":", 29889: ".", 29892: ",", 29915: "'", 29879: "s",
}  # fmt: skip
SYSTEM_IDS = [
    319, 13563, 1546, 263, 12758, 5199, 322, 385, 23116, 21082, 20255, 29889, 450, 20255, 4076, 8444, 29892, 13173,
    29892, 322, 1248, 568, 6089, 304, 278, 5199, 29915, 29879, 5155, 29889,
]  # fmt: skip
USER, ASSISTANT = [3148, 1001, 29901], [319, 1799, 9047, 13566, 29901]
LISA_7B = {"<im_patch>": 32000, "<im_start>": 32001, "<im_end>": 32002, "[SEG]": 32003}
GLAMM = {"<im_start>": 32000, "<im_end>": 32001, "<bbox>": 32002, "<point>": 32003, "[SEG]": 32004}


def llama_pieces() -> list[Piece]:
    """32,000 pieces with LLaMA's at their places; beginnings of words fill others, so that words can be merged."""
    table: dict[int, Piece] = {0: ("<unk>", 0.0, UNKNOWN), 1: ("<s>", 0.0, CONTROL), 2: ("</s>", 0.0, CONTROL)}
    table.update({3 + byte: (f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)})
    table.update({number: (piece, -1.0, NORMAL) for number, piece in KNOWN.items()})
    parts = {piece[:length] for piece in KNOWN.values() for length in range(1, len(piece))}
    letters = {letter for piece in KNOWN.values() for letter in piece}
    spare = iter(range(25000, 29000))
    for part in sorted((parts | letters) - set(KNOWN.values())):
        table[next(spare)] = (part, -1.0, NORMAL)
    return [table.get(number, (chr(0xF0000 + number), -9.0, NORMAL)) for number in range(32000)]


@pytest.fixture(scope="module")
def pieces() -> SentencePieceProcessor:
    return SentencePieceProcessor(model_proto=sentencepiece_model(llama_pieces()))


@pytest.fixture(scope="module")
def lisa(pieces: SentencePieceProcessor) -> SegTokenizer:
    return SegTokenizer(pieces, LISA_7B)


def test_a_prompt_of_lisa_is_the_expected_sequence(lisa: SegTokenizer) -> None:
    prompt = Template(lisa, "", "\n ").write([Turn("What is the human", "[SEG].")])
    assert list(prompt.before) == [1, *SYSTEM_IDS, *USER, 32001]
    assert list(prompt.after) == [32002, 1724, 338, 278, 5199, *ASSISTANT, 32003, 869, 2]
    assert prompt.after[prompt.segs[0]] == 32003


def test_a_chain_of_glamm_is_the_expected_sequence(pieces: SentencePieceProcessor) -> None:
    tokenizer = SegTokenizer(pieces, GLAMM)
    template = Template(tokenizer, "The ", " provides\n")
    chain = template.write([Turn("What is the human", "is [SEG]."), Turn("What is a", "[SEG]."), Turn("is a")])
    assert list(chain.before) == [1, *SYSTEM_IDS, *USER, 450, 32000]
    first = [1724, 338, 278, 5199, *ASSISTANT, 338, 32004, 869, 2]
    second = [*USER, 1724, 338, 263, *ASSISTANT, 32004, 869, 2]
    third = [*USER, 338, 263, *ASSISTANT]
    ids = list(chain.after)
    assert ids[0] == 32001
    # "provides", a line break as a byte, and the question share a chunk, so the question's first word has no space.
    assert ids[-len(third) :] == third
    assert ids[-len(second + third) : -len(third)] == second
    assert ids[-len(first[1:] + second + third) : -len(second + third)] == first[1:]
    assert [ids[place] for place in chain.segs] == [32004, 32004]
    assert 3 + ord("\n") in ids


def test_turns_apart_are_the_whole_text(lisa: SegTokenizer) -> None:
    """A turn is tokenised for itself; the ids are those of the whole conversation at once."""
    turns = [Turn("What is the human", "[SEG]."), Turn("is a chat", "is [SEG].")]
    prompt = Template(lisa, "", "\n ").write(turns)
    text = "<im_end>\n What is the human ASSISTANT: [SEG].</s>USER: is a chat ASSISTANT: is [SEG].</s>"
    assert list(prompt.after) == lisa.encode(text)


@pytest.mark.parametrize("text", ["a [SEG] human", "a[SEG]human", "a  [SEG]\n human", "a\t[SEG] human"])
def test_space_next_to_an_added_token_vanishes(lisa: SegTokenizer, text: str) -> None:
    assert lisa.encode(text) == [263, 32003, 5199]
    assert lisa.encode("[SEG]") == [32003]


def test_the_end_of_a_sequence_divides_but_strips_nothing(lisa: SegTokenizer) -> None:
    assert lisa.encode("a</s>a") == [263, 2, 263]
    assert lisa.encode("a</s> a") == [263, 2, 29871, 263]


def test_decoding_names_added_tokens(lisa: SegTokenizer) -> None:
    assert lisa.decode([338, 278, 32003, 869, 2]) == "is the [SEG] ."


def test_an_expression_with_the_mask_token_is_refused(lisa: SegTokenizer) -> None:
    with pytest.raises(DataError, match="mask token"):
        Template(lisa, "", "\n ").write([Turn("What is [SEG]", "[SEG].")])


# ---------------------------------------------------------------------------------------------- files


def tokenizer_folder(folder: Path, added: object) -> Path:
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(tiny_pieces()))
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


def test_added_tokens_in_the_form_of_later_versions(tmp_path: Path) -> None:
    size = len(tiny_pieces())
    folder = tokenizer_folder(tmp_path, {})
    (folder / "added_tokens.json").unlink()
    table = {"1": {"content": "<s>"}, str(size): {"content": "[SEG]"}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": table}))
    assert load_tokenizer(folder, size + 1).added == {"[SEG]": size}


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"<im_start>": 355}, r"has no \[SEG\]"),
        ({"[SEG]": 355}, "has no <im_start>"),
        ({"[SEG]": 355, "<im_start>": 400}, "<im_start> has an id beyond the 360 rows"),
        ({"[SEG]": "355", "<im_start>": 400}, r"no whole number for '\[SEG\]'"),
        ([], "not a JSON object"),
    ],
)
def test_a_tokenizer_that_does_not_fit(tmp_path: Path, added: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tokenizer_folder(tmp_path, added), 360, ("<im_start>",))


def test_a_tokenizer_that_is_not_there_or_broken(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file .*tokenizer\.model") as missing:
        load_tokenizer(tmp_path, 360)
    assert "tokenizer.json does not replace it" in missing.value.hint
    (tmp_path / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="not a sentencepiece model"):
        load_tokenizer(tmp_path, 360)
