"""Outlines of the shapes. All are made with the same area for the same size, so that "biggest" means one thing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

Point: TypeAlias = tuple[float, float]

# Largest turn in degrees: enough for variety, too little to make a square a diamond.
MAX_TURN: Final = {
    "circle": 0.0,
    "square": 10.0,
    "triangle": 14.0,
    "diamond": 8.0,
    "star": 16.0,
    "cross": 12.0,
    "heart": 14.0,
    "moon": 18.0,
}


def outline(shape: str, side: float, center: Point, turn: float) -> tuple[float, ...]:
    """A shape's outline, flat ``(x1, y1, ...)`` in pixels, to a tenth of a pixel.

    Args:
        shape: One of ``vocabulary.SHAPES``.
        side: Square root of the area, in pixels.
        center: Middle of the outline's box before turning.
        turn: Degrees, clockwise on the screen.
    """
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    flat: list[float] = []
    for x, y in _UNIT[shape]:
        flat.append(round(center[0] + side * (cos * x - sin * y), 1))
        flat.append(round(center[1] + side * (sin * x + cos * y), 1))
    return tuple(flat)


def bounds(points: Sequence[float]) -> tuple[float, float, float, float]:
    """The box ``(x1, y1, x2, y2)`` around flat points."""
    xs, ys = points[0::2], points[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _ring(count: int, radius: float = 1.0, start: float = 0.0) -> list[Point]:
    step = 2 * math.pi / count
    return [(radius * math.cos(start + i * step), radius * math.sin(start + i * step)) for i in range(count)]


def _star() -> list[Point]:
    outer, inner = _ring(5, 1.0, -math.pi / 2), _ring(5, 0.45, -math.pi / 2 + math.pi / 5)
    return [p for pair in zip(outer, inner, strict=True) for p in pair]


def _cross() -> list[Point]:
    a = 0.36
    corner = [(a, -1.0), (a, -a), (1.0, -a), (1.0, a), (a, a), (a, 1.0)]
    return corner + [(-x, -y) for x, y in corner]


def _heart() -> list[Point]:
    points = []
    for i in range(26):
        t = 2 * math.pi * i / 26
        y = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
        points.append((16 * math.sin(t) ** 3, y))
    return points


def _moon() -> list[Point]:
    """A crescent that opens to the right: a circle without another of nearly its size, shifted by ``shift``."""
    radius, shift = 0.82, 0.52
    meet_x = (1 - radius**2 + shift**2) / (2 * shift)
    meet_y = math.sqrt(1 - meet_x**2)
    outer = math.atan2(meet_y, meet_x)
    inner = math.atan2(meet_y, meet_x - shift)
    back = [outer + i * (2 * math.pi - 2 * outer) / 18 for i in range(19)]
    front = [2 * math.pi - inner - i * (2 * math.pi - 2 * inner) / 14 for i in range(1, 14)]
    return [(math.cos(t), math.sin(t)) for t in back] + [
        (shift + radius * math.cos(t), radius * math.sin(t)) for t in front
    ]


def _normalised(points: list[Point]) -> tuple[Point, ...]:
    """Scaled to area 1, the middle of its box at the origin."""
    following = points[1:] + points[:1]
    area = abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, following, strict=True))) / 2
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    mid_x, mid_y, scale = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, 1 / math.sqrt(area)
    return tuple(((x - mid_x) * scale, (y - mid_y) * scale) for x, y in points)


_UNIT: Final[dict[str, tuple[Point, ...]]] = {
    "circle": _normalised(_ring(26)),
    "square": _normalised([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "triangle": _normalised([(0, -1), (1, 0.8), (-1, 0.8)]),
    "diamond": _normalised([(0, -1.4), (1, 0), (0, 1.4), (-1, 0)]),
    "star": _normalised(_star()),
    "cross": _normalised(_cross()),
    "heart": _normalised(_heart()),
    "moon": _normalised(_moon()),
}
