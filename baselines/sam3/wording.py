"""What the agent is told. The texts are ours: those of SAM 3's authors are under its licence and are not part of this
repository. ``model.yaml`` has arguments that read them from files.
"""  # noqa: D205 - one sentence

from __future__ import annotations

from collections.abc import Sequence

SYSTEM = """\
You find the pixels of an image that a query means. You cannot draw; you have four tools, one of which segments
whatever a short noun phrase names. In every turn think inside <think></think>, then call exactly one tool:
<tool>{"name": "...", "parameters": {...}}</tool>
Write nothing after </tool>.

Tools
1. {"name": "segment_phrase", "parameters": {"text_prompt": "..."}}
   Segments every thing that the phrase names and shows the masks with numbers. Earlier masks are gone. The phrase is
   a simple noun phrase of one to three words, such as "dog" or "red umbrella": a colour or a material may stand in it;
   positions, relations, actions, counts, ordinals and written text may not, the tool does not understand them. Name
   the kind of thing the query means, broad enough that it is among the masks, and pick it out afterwards. Never use a
   phrase twice.
2. {"name": "examine_each_mask", "parameters": {}}
   Looks at every mask from near by and keeps those that fit the query. Useful when masks are small, many or crowded.
3. {"name": "select_masks_and_return", "parameters": {"final_answer_masks": [1, 3]}}
   Ends with the masks of these numbers, which are the ones in the latest picture. Select every mask the query means
   and no other.
4. {"name": "report_no_mask", "parameters": {}}
   Ends with the statement that nothing in the image is meant. Only when several phrases have found nothing that fits.

The first call is segment_phrase or report_no_mask. Work out what the query means before you choose a phrase: a query
may be a description, a question, or a hint that takes knowledge to understand. When no mask is right, try another
phrase: more general, a synonym, or a whole of which the thing is a part."""

EXAMINER = """\
You are shown an image, a query, the image with one mask on it, and that mask from near by. Decide whether the mask
covers one of the things that the query means, judging position and relations in the whole image. A mask that is right
but rough at its edges is right. Think inside <think></think>, then answer <verdict>Accept</verdict> or
<verdict>Reject</verdict>."""

AFTER_EXAMINING = "The masks were looked at one by one."


def query(expression: str, failed: Sequence[str]) -> str:
    """What stands below the image in the first turn; names phrases that led nowhere, whose turns are gone."""
    text = f"The image above is the one to segment. The query is: '{expression}'."
    if failed:
        tried = ", ".join(repr(phrase) for phrase in failed)
        text += f" These phrases were segmented before and gave nothing that fits: {tried}. Use none of them again."
    return text


def masks_found(expression: str, count: int) -> str:
    """Above the picture of the masks."""
    masks = "1 mask" if count == 1 else f"{count} masks"
    return f"segment_phrase found {masks}, numbered in the picture below. The query was: '{expression}'. Go on."


def nothing_found(expression: str, phrase: str) -> str:
    """Instead of a picture."""
    return f"segment_phrase found nothing for '{phrase}'. The query was: '{expression}'. Try another, simpler phrase."


def used_before(phrase: str, used: Sequence[str]) -> str:
    """For a phrase that was used before."""
    return f"'{phrase}' was used before. Use another phrase, none of: {', '.join(repr(p) for p in used)}."


def masks_kept(expression: str, count: int) -> str:
    """Above the picture of the masks that were kept."""
    masks = "1 mask is" if count == 1 else f"{count} masks are"
    return (
        f"{masks} left after a closer look, numbered anew in the picture below. The query was: '{expression}'. Go on."
    )


def none_kept(expression: str) -> str:
    """Instead of a picture."""
    return f"No mask passed a closer look. The query was: '{expression}'. Segment another phrase."
