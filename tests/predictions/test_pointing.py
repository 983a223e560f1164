# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from attention_cases import make_pyramid
from hypothesis import example, given, settings
from hypothesis import strategies as st
from record_cases import record_of

from monai_jsma.datalists.regions import Area
from monai_jsma.geometry import PatchGeometry
from monai_jsma.predictions.measures import Pointing, covered_shares, pointing_scores

GEOMETRY = PatchGeometry((60, 100), 0.5, (1.0, 0.5), 40)  # cells 1 x 2 and 2 x 3
PLACE = (10, 30)


def box(row, col, height, width):
    return np.array([(row, col), (row, col + width), (row + height, col + width), (row + height, col)], float)


def inside(ring, rows, cols):
    """Even-odd rule, point by point: how many edges lie to the left."""
    odd = np.zeros(np.broadcast_shapes(rows.shape, cols.shape), bool)
    for (r0, c0), (r1, c1) in zip(ring, np.roll(ring, -1, 0), strict=True):
        if r0 != r1:
            odd ^= ((r0 <= rows) != (r1 <= rows)) & (c0 + (rows - r0) * (c1 - c0) / (r1 - r0) < cols)
    return odd


def slow_shares(areas, geometry=GEOMETRY, location=PLACE, dense=8):
    """By counting dense x dense points in each pixel."""
    height, width = geometry.size
    rows = (np.arange(height * dense) + 0.5) / dense + location[0]
    cols = (np.arange(width * dense) + 0.5) / dense + location[1]
    mask = np.zeros((height * dense, width * dense), bool)
    for area in areas:
        one = inside(area.ring, rows[:, None], cols[None])
        for hole in area.holes:
            one &= ~inside(hole, rows[:, None], cols[None])
        mask |= one
    shares = []
    for i in range(geometry.num_cells):
        top, left, high, wide = geometry.cell_box(i)
        of_row = (rows - location[0] > top) & (rows - location[0] < top + high)
        of_col = (cols - location[1] > left) & (cols - location[1] < left + wide)
        shares.append(mask[of_row][:, of_col].mean())
    return np.array(shares)


def record(attention):
    pyramid = make_pyramid(np.full((160, 200, 3), 100, np.uint8), origin=PLACE, size=(60, 100))
    return record_of(pyramid, attention)


def test_cells_count_by_their_area_inside():
    left_half = Area(("tumour",), box(10, 30, 60, 50))
    np.testing.assert_allclose(covered_shares(GEOMETRY, PLACE, [left_half]), [1, 0, 1, 0.5, 0, 1, 0.5, 0])
    made = record({0: 0.25, 3: 0.5, 7: 0.25})
    scores = pointing_scores(made.evidence, [left_half])
    assert list(scores) == ["", "100X", "200X"]
    np.testing.assert_allclose(list(scores.values()), [(0.5, 0.5), (1, 0.5), (1 / 3, 0.5)])


def test_overlaps_count_once_and_holes_not_at_all():
    ring = Area((), box(10, 30, 60, 100), holes=(box(10, 30, 60, 50), box(0, 30, 40, 50)))
    again = Area((), box(10, 105, 60, 500))  # reaches beyond the region
    np.testing.assert_allclose(
        covered_shares(GEOMETRY, PLACE, [ring, again, again]), [0, 1, 0, 0.5, 1, 0, 0.5, 1], atol=1e-12
    )


def test_an_outline_that_goes_back_on_itself_encloses_nothing_there():
    spiked = np.insert(box(10, 30, 60, 50), 2, [(10, 80), (10, 130), (10, 80)], axis=0)
    line = np.array([(10, 30), (40, 80), (70, 130)], float)
    areas = [Area((), spiked, (line,)), Area((), line, (spiked,))]
    np.testing.assert_allclose(covered_shares(GEOMETRY, PLACE, areas), [1, 0, 1, 0.5, 0, 1, 0.5, 0], atol=1e-12)


def test_scores_that_are_not_defined():
    assert pointing_scores(record({0: 1.0}).evidence, [Area((), box(500, 500, 9, 9))])[""].enrichment is None
    scores = pointing_scores(record({0: 1.0}).evidence, [Area((), box(10, 30, 30, 100))])
    assert scores["200X"] == Pointing(None, 0.5)
    assert scores["200X"].enrichment is None
    assert scores[""].enrichment == pytest.approx(1)


def test_attention_that_is_the_same_everywhere_has_no_enrichment():
    rng = np.random.default_rng(0)
    areas = [Area((), rng.uniform((10, 30), (70, 130), (7, 2))) for _ in range(2)]
    areas_of_cells = np.array([GEOMETRY.cell_box(i).height * GEOMETRY.cell_box(i).width for i in range(8)])
    made = record(dict(enumerate(areas_of_cells / areas_of_cells.sum())))
    score = pointing_scores(made.evidence, areas)
    assert 0 < score[""].expected < 1
    assert all(s.enrichment == pytest.approx(1, rel=1e-6) for s in score.values())


whole_boxes = st.builds(box, *(st.integers(0, 140),) * 2, *(st.integers(1, 90),) * 2)
points = st.tuples(*(st.floats(-20, 160, width=16),) * 2)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.builds(lambda ring, holes: Area((), ring, tuple(holes)), whole_boxes, st.lists(whole_boxes, max_size=2)),
        min_size=1,
        max_size=3,
    )
)
def test_shares_of_boxes_equal_counted_points(areas):
    geometry = PatchGeometry((60, 96), 0.5, (0.5, 1.0), 20)  # cells 3 x 5, of 19.2 pixels, and 2 x 3
    np.testing.assert_allclose(covered_shares(geometry, PLACE, areas), slow_shares(areas, geometry, dense=5), atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.lists(points, min_size=3, max_size=9), st.lists(points, min_size=3, max_size=4))
@example([(0, 0), (0, 15), (18, 44), (0, 0), (0, 64), (47, 2)], [(0, 0)] * 3)  # one edge lies on another
@example([(10, 80), (70, 45), (33, 110), (33, 40), (70, 115)], [(20, 70), (60, 70), (20, 90), (60, 90)])  # a star
def test_outlines_that_cross_themselves_follow_the_even_odd_rule(ring, hole):
    areas = [Area((), np.array(ring), (np.array(hole),))]
    np.testing.assert_allclose(covered_shares(GEOMETRY, PLACE, areas), slow_shares(areas), atol=0.02)
