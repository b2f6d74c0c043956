"""Whether answers of a forced length fit into a language model's positions."""

from __future__ import annotations

from lens_bench.errors import UsageError


def require_room(tokens: int, positions: object, taken: int = 1) -> None:
    """Refuse a forced length that leaves no positions for the prompt.

    Nothing would fail on its way there: a model computes for minutes at positions that it never saw.

    Args:
        tokens: Of every answer.
        positions: ``max_position_embeddings`` of the model's configuration, if it has them.
        taken: Of them by the shortest prompt.

    Raises:
        UsageError: Together they are too many.
    """
    if isinstance(positions, int) and tokens + taken > positions:
        raise UsageError(
            f"--new-tokens {tokens} is more than the model has room for: {positions} positions, "
            f"{taken} or more of them the prompt's",
            f"less than {positions - taken}" if positions > taken else "",
        )
