"""Keys and values with gaps: what a row sees, growth, selection, prefixes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.lens.cache import KeyValues, Prefix


def prefix(length: int, fill: float, layers: int = 2) -> Prefix:
    return Prefix(*(tuple(torch.full((1, length, 3), fill + layer) for layer in range(layers)) for _ in range(2)))


def test_rows_begin_with_their_prefix_and_a_gap() -> None:
    cache = KeyValues.of_prefixes([prefix(4, 1.0), prefix(2, 5.0)], reserve=3)
    assert cache.columns == 4
    assert cache.real.tolist() == [[True] * 4, [True, True, False, False]]
    mask = cache.open(torch.tensor([[True, True], [True, False]]))
    assert mask.shape == (2, 1, 2, 6)
    assert mask[0, 0].tolist() == [[True] * 5 + [False], [True] * 6]
    # The second row's second token is padding: it sees itself, and nothing later may see it.
    assert mask[1, 0].tolist() == [[True, True, False, False, True, False], [True, True, False, False, True, True]]
    new = torch.full((2, 1, 2, 3), 9.0)
    keys, values = cache.update(new, new, 0)
    assert keys.shape == (2, 1, 6, 3) and keys[1, 0, :, 0].tolist() == [5, 5, 0, 0, 9, 9]
    cache.update(new, new, 1)
    again = cache.prefix(1)
    assert again.length == 3 and again.keys[0][0, :, 0].tolist() == [5, 5, 9]
    assert again.keys[1][0, :, 0].tolist() == [6, 6, 9] and values is not None


def test_growing_keeps_what_was_there() -> None:
    cache = KeyValues.of_prefixes([prefix(2, 1.0)], reserve=0)
    for step in range(100):
        cache.open(torch.tensor([[True]]))
        value = torch.full((1, 1, 1, 3), float(step))
        keys, _ = cache.update(value, value, 0)
        cache.update(value, value, 1)
    assert keys[0, 0, :, 0].tolist() == [1, 1, *range(100)]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.data())
def test_selecting_rows_and_prefixes_are_inverse(lengths: list[int], data: st.DataObject) -> None:
    prefixes = [prefix(n, 10.0 * i) for i, n in enumerate(lengths)]
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=4))
    chosen = KeyValues.of_prefixes(prefixes, reserve=1).select(torch.tensor(rows))
    for place, row in enumerate(rows):
        back = chosen.prefix(place)
        assert back.length == lengths[row]
        assert all(torch.equal(a, b) for a, b in zip(back.keys, prefixes[row].keys, strict=True))
