"""Crop and pad: the predecessor's odd rule, centring on the body, exact inverses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrict_core.data.cache.canvas import CropPad, centred_crop, predecessor_crop, restore_volume
from mrict_core.data.images.orders import SliceOrder
from mrict_core.errors import MrictError

SIDES = st.integers(1, 40)


def numbered(count: int, rows: int, cols: int) -> np.ndarray:
    return np.arange(1, 1 + count * rows * cols, dtype=np.int32).reshape(count, rows, cols)


@given(rows=SIDES, cols=SIDES, size=SIDES, top=st.integers(-50, 50), left=st.integers(-50, 50))
def test_inverse_is_exact_where_kept(rows: int, cols: int, size: int, top: int, left: int) -> None:
    stack, crop = numbered(2, rows, cols), CropPad(size, rows, cols, top, left)
    canvas = crop.apply(stack, fill=0)
    back = crop.invert(canvas, fill=-1)
    assert canvas.shape == (2, size, size)
    assert back.shape == stack.shape
    kept = back != -1
    np.testing.assert_array_equal(back[kept], stack[kept])
    inside = np.zeros((rows, cols), bool)
    inside[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = True
    np.testing.assert_array_equal(kept, np.broadcast_to(inside, stack.shape))
    assert np.count_nonzero(canvas) == kept.sum()


@given(rows=SIDES, cols=SIDES, extra=st.integers(0, 20))
def test_a_canvas_at_least_as_large_loses_nothing(rows: int, cols: int, extra: int) -> None:
    stack, crop = numbered(1, rows, cols), predecessor_crop(rows, cols, max(rows, cols) + extra)
    np.testing.assert_array_equal(crop.invert(crop.apply(stack, fill=0), fill=0), stack)


@pytest.mark.parametrize(
    ("rows", "cols", "size", "top", "left"),
    [
        (10, 10, 10, 0, 0),
        (12, 12, 10, 1, 1),
        (11, 11, 10, 1, 0),  # extra row off the top, extra column off the right; the predecessor's [1:-0] was empty
        (13, 13, 10, 2, 1),
        (9, 9, 10, -1, 0),  # extra row on top, extra column on the right
        (7, 7, 10, -2, -1),
        (231, 265, 256, -13, 4),
        (173, 242, 256, -42, -7),
    ],
)
def test_predecessors_rule(rows: int, cols: int, size: int, top: int, left: int) -> None:
    crop = predecessor_crop(rows, cols, size)
    assert (crop.top, crop.left) == (top, left)


@given(rows=SIDES, cols=SIDES, size=SIDES, data=st.data())
def test_canvas_is_centred_on_the_body_over_all_slices(rows: int, cols: int, size: int, data: st.DataObject) -> None:
    body = np.zeros((3, rows, cols), bool)
    points = [(k, data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))) for k in (0, 2)]
    for point in points:
        body[point] = True
    crop = centred_crop(body, size)
    for start, places in ((crop.top, [p[1] for p in points]), (crop.left, [p[2] for p in points])):
        before, after = min(places) - start, start + size - 1 - max(places)
        assert abs(before - after) <= 1
    if max(np.ptp([p[axis] for p in points]) for axis in (1, 2)) < size:
        assert crop.apply(body, fill=False).sum() == body.sum()


def test_an_off_centre_head_is_not_cut() -> None:
    body = np.zeros((2, 60, 60), bool)
    body[:, 30:58, 2:30] = True
    assert centred_crop(body, 32).apply(body, fill=False).sum() == body.sum()
    assert predecessor_crop(60, 60, 32).apply(body, fill=False).sum() < body.sum()


def test_shapes_that_do_not_belong_are_refused() -> None:
    crop = predecessor_crop(10, 12, 8)
    with pytest.raises(MrictError, match=r"expected \(10, 12\)"):
        crop.apply(np.zeros((1, 12, 10)), 0)
    with pytest.raises(MrictError, match=r"expected \(8, 8\)"):
        crop.invert(np.zeros((1, 8, 9)), 0)
    with pytest.raises(MrictError, match="2 slices, expected 1"):
        restore_volume(np.zeros((2, 8, 8)), np.array([3]), (10, 12, 5), SliceOrder.raw(), crop)


def test_restored_volume_is_air_where_nothing_was_kept() -> None:
    crop = CropPad(size=2, rows=3, cols=4, top=1, left=1)
    hu = np.array([[[1, 2], [3, 4]]], np.int16)
    volume = restore_volume(hu, np.array([2]), (3, 4, 5), SliceOrder.raw(), crop)
    assert volume.shape == (3, 4, 5)
    assert volume.dtype == np.int16
    np.testing.assert_array_equal(volume[1:3, 1:3, 2], hu[0])
    assert (volume == -1024).sum() == volume.size - 4
