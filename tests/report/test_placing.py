"""Names beside points: none on another where there is room, none outside."""

import numpy as np
import pytest

from mobconv.report.placing import place

SIZE = (330.0, 270.0)


def boxes(points, widths, others=()):
    return [
        (each.x - width / 2, each.y - 6.5, each.x + width / 2, each.y + 6.5)
        for each, width in zip(place(points, widths, 13, SIZE, others), widths, strict=True)
    ]


def overlap(one, other):
    return min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])


@pytest.mark.parametrize("seed", range(20))
def test_names_are_apart_and_inside(seed):
    """As a front lies: larger files to the right, more accurate ones higher; crowded at the top."""
    rng = np.random.default_rng(seed)
    across = np.sort(rng.uniform(20, 200, 7))
    down = np.sort(60 + rng.exponential(40, 7).clip(0, 190))[::-1]
    held = boxes(list(zip(across, down, strict=True)), [62.0] * 7)
    for place_, box in enumerate(held):
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= SIZE[0] and box[3] <= SIZE[1]
        assert not any(overlap(box, other) for other in held[place_ + 1 :])


def test_a_marker_without_name_is_not_covered():
    (box,) = boxes([(100, 100)], [60], others=[(140, 100)])
    assert not overlap(box, (135, 95, 145, 105))


def test_one_in_the_corner_turns_inwards():
    (box,) = boxes([(329, 1)], [80])
    assert box[2] <= SIZE[0] and box[1] >= 0
