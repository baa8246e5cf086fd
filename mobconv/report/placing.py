"""Place the names of points in a plot: beside them, not on one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

Point = tuple[float, float]


@dataclass(frozen=True)
class Label:
    """A name's box in pixels, (x, y) its middle; far: whether a line has to lead to its point."""

    x: float
    y: float
    far: bool


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        """Pixels squared that two boxes share."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(across, 0.0) * max(down, 0.0)

    def contains(self, point: Point) -> bool:
        return self.left <= point[0] <= self.right and self.top <= point[1] <= self.bottom


_DOT = 5.0  # half the side of a marker
_CLOSE = 20.0


def place(
    points: Sequence[Point], widths: Sequence[float], height: float, size: Point, others: Sequence[Point] = ()
) -> list[Label]:
    """One box for each point, of its width and a common height, inside a plot of `size`; pixels, y downwards.

    Greedy: point by point, the candidate that covers least of names and markers, then the nearest. others: markers
    without a name.
    """
    markers = [_Box(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in (*points, *others)]
    boxes: list[_Box] = []
    leaders: list[Point] = []
    labels: list[Label] = []
    for (x, y), width in zip(points, widths, strict=True):
        best: tuple[float, _Box, float] | None = None
        for down, across in product((0, 14, -14, 28, -28, 42, 56, -42, 70, 84, 98), (1, -1, 0, 2, -2)):
            if across == 0 and down == 0:
                continue
            middle = x + _offset(across, width, bool(down))
            box = _Box(middle - width / 2, y + down - height / 2, middle + width / 2, y + down + height / 2)
            outside = max(0.0, -box.left, box.right - size[0], -box.top, box.bottom - size[1])
            covered = 4 * sum(box.overlap(other) for other in boxes) + sum(box.overlap(other) for other in markers)
            distance = abs(down) + abs(middle - x) / 2
            line = _line((x, y), (middle, y + down)) if abs(down) > _CLOSE else []
            crossed = sum(other.contains(at) for at in line for other in boxes)
            crossed += sum(box.contains(at) for at in leaders)
            cost = 1000 * outside + 10 * covered + 100 * crossed + distance
            if best is None or cost < best[0]:
                best = cost, box, abs(down)
        assert best is not None
        boxes.append(best[1])
        far = best[2] > _CLOSE
        if far:
            leaders += _line((x, y), ((best[1].left + best[1].right) / 2, (best[1].top + best[1].bottom) / 2))
        labels.append(Label((best[1].left + best[1].right) / 2, (best[1].top + best[1].bottom) / 2, far))
    return labels


def _line(start: Point, end: Point) -> list[Point]:
    return [(start[0] + (end[0] - start[0]) * n / 8, start[1] + (end[1] - start[1]) * n / 8) for n in range(1, 9)]


def _offset(across: int, width: float, aslant: bool) -> float:
    side = width / 2 + (2 if aslant else _DOT + 4)
    return {0: 0.0, 1: side, -1: -side, 2: side + 24, -2: -side - 24}[across]
