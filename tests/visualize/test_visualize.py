# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from visualize_cases import GEOMETRIES, GREY, extent, make_evidence

from monai_jsma.geometry import GridCell, PatchGeometry
from monai_jsma.visualize import (
    attention_image,
    draw_attention,
    draw_boxes,
    figure_image,
    patch_boxes_image,
    rank_patches,
)
from monai_jsma.visualize.canvas import add_axes, draw_scale_bar, draw_thumbnail, pick_color

BACH = PatchGeometry((1536, 2048), 0.42, (1.68, 0.84, 0.42), 299)


def picture_extent(image):
    """Where the thumbnail lies in the image: rows and columns with long runs of its grey."""
    grey = (image == GREY).all(2)
    rows, cols = np.flatnonzero(grey.mean(1) > 0.15), np.flatnonzero(grey.mean(0) > 0.15)
    return rows[0], rows[-1] + 1, cols[0], cols[-1] + 1


def assert_lies_at(found, picture, box, size, tolerance):
    """``found`` covers the part of the ``picture`` that ``box`` covers of ``size``; all but ``box`` in image pixels."""
    top, bottom, left, right = picture
    down, across = (bottom - top) / size[0], (right - left) / size[1]
    expected = np.array([box.row, box.row + box.height, box.col, box.col + box.width]) * [down, down, across, across]
    np.testing.assert_allclose(found, expected + [top, top, left, left], atol=tolerance)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["landscape", "portrait"])
@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (1, 2)])
@pytest.mark.parametrize("level", [0, 1])
def test_attended_cell_is_coloured_where_it_lies(geometry, corner, level):
    rows, cols = geometry.grids[level]
    index = geometry.index(GridCell(level, corner[0] % rows, corner[1] % cols))
    evidence = make_evidence(geometry, attention=np.eye(geometry.num_cells)[index])
    image = attention_image(evidence, level)
    top, bottom, left, right = picture = picture_extent(image)
    coloured = np.ptp(image.astype(int), axis=2) > 40
    coloured[:, right + 1 :] = False  # the colour bar
    assert_lies_at(extent(coloured), picture, geometry.cell_box(index), geometry.size, 3)


def test_map_shows_each_probability_and_the_papers_share_and_enrichment():
    rng = np.random.default_rng(0)
    attention = rng.random(58)
    for (first, end), share in zip(((0, 4), (4, 16), (16, 58)), (0.06, 0.78, 0.16)):  # Table 3
        attention[first:end] *= share / attention[first:end].sum()
    axes = add_axes(Figure(), left=1, top=1, height=3, width=4)
    draw_attention(axes, make_evidence(BACH, attention=attention), 1)
    (mesh,) = axes.collections
    np.testing.assert_array_equal(mesh.get_array(), attention[4:16].reshape(3, 4))
    assert mesh.get_clim() == (0, attention[4:16].max())
    title = axes.get_title(loc="left")
    assert "100X (0.84 µm/px)" in title
    assert "78.0% of all attention" in title
    assert "enrichment 3.77 times its share of the cells" in title
    assert "(12 of 58 cells are 20.7%)" in title


def test_map_without_attention_leaves_the_thumbnail_as_it_is():
    geometry = GEOMETRIES[0]
    evidence = make_evidence(geometry, attention=np.eye(geometry.num_cells)[0])
    image = attention_image(evidence, 1)
    top, bottom, left, right = picture_extent(image)
    above_the_scale_bar = image[top + 2 : top + 8 * (bottom - top) // 10, left + 2 : right - 2]
    assert (above_the_scale_bar == GREY).all()


def test_every_map_has_a_scale_bar():
    axes = add_axes(Figure(), left=1, top=1, height=3, width=4)
    draw_attention(axes, make_evidence(BACH), 2)
    assert [text.get_text() for text in axes.texts] == ["200 µm"]
    assert np.ptp(axes.lines[0].get_xdata()) * BACH.mpp == pytest.approx(200)


def test_a_box_too_narrow_for_its_weight_has_its_number():
    axes = add_axes(Figure(), left=1, top=1, height=1.5, width=2)
    draw_boxes(axes, make_evidence(BACH, [0, BACH.num_cells - 1], [0.75, 0.25]))
    assert {text.get_text() for text in axes.texts} == {"200 µm", "1: 0.75", "2"}


def test_axes_count_level_0_pixels_of_the_file():
    geometry = GEOMETRIES[0]
    axes = add_axes(Figure(), left=1, top=1, height=3, width=4)
    draw_attention(axes, make_evidence(geometry, location=(7000, 300)), 0)
    assert axes.get_xlim() == (300, 500)
    assert axes.get_ylim() == (7120, 7000)  # rows run downwards
    assert "level-0 px" in axes.get_xlabel()
    turned = add_axes(Figure(), left=1, top=1, height=3, width=4)
    draw_attention(turned, make_evidence(geometry, location=(7000, 300), orientation=1), 0)
    assert turned.get_xlim() == (0, 200)
    assert "turned" in turned.get_xlabel()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["landscape", "portrait"])
@pytest.mark.parametrize("cell", [(0, 1, 0), (0, 0, 1), (1, 2, 1), (1, 0, 2), (1, 1, 3)])
def test_box_is_drawn_where_its_patch_lies(geometry, cell):
    index = geometry.index(GridCell(*cell))
    image = patch_boxes_image(make_evidence(geometry, [index], [1.0], location=(500, 9)))
    top, bottom, left, right = picture = picture_extent(image)
    line = (np.abs(image - np.array(to_rgb(pick_color(cell[0]))) * 255) < 3).all(2)
    line[: top - 4], line[:, : left - 4] = False, False  # the legend
    assert_lies_at(extent(line), picture, geometry.box(index), geometry.size, 4)  # half a line, of 2 points


def test_box_of_a_patch_larger_than_the_picture_ends_with_the_picture():
    geometry = PatchGeometry((30, 90), 0.5, (0.5,), 40)
    axes = add_axes(Figure(), left=1, top=1, height=1, width=3)
    draw_boxes(axes, make_evidence(geometry, [2], [1.0]))
    (edge,) = (p for p in axes.patches if isinstance(p, Rectangle))
    assert (edge.get_y(), edge.get_height(), edge.get_x(), edge.get_width()) == (0, 30, 50, 40)


def test_draws_of_one_cell_are_shown_once_and_nothing_drawn_not_at_all():
    cells, weights = rank_patches(np.array([3, 7, 3, 5, 9]), np.array([0.25, 0.4, 0.25, 0.0, 0.1]))
    assert cells.tolist() == [3, 7, 9]
    assert weights.tolist() == [0.5, 0.4, 0.1]
    assert [len(part) for part in rank_patches(np.array([1, 2]), np.zeros(2))] == [0, 0]


def test_boxes_are_numbered_by_weight():
    geometry = GEOMETRIES[0]
    axes = add_axes(Figure(), left=1, top=1, height=3, width=5)
    draw_boxes(axes, make_evidence(geometry, [8, 2, 8, 20], [0.1, 0.35, 0.3, 0.25]))
    for number, (cell, weight) in enumerate(((8, "0.4"), (2, "0.35"), (20, "0.25")), start=1):
        (label,) = (t for t in axes.texts if t.get_text() == f"{number}: {weight}")
        col, row = label.get_position()
        box = geometry.box(cell)
        assert box.row <= row <= box.row + box.height
        assert box.col <= col <= box.col + box.width
        assert label.get_color() == "white"
        assert label.get_path_effects(), "white letters need an outline to be read on a white ground"
    assert sum(isinstance(p, Rectangle) for p in axes.patches) == 3


def test_only_the_heaviest_boxes_are_drawn_and_the_title_says_so():
    geometry = GEOMETRIES[0]
    axes = add_axes(Figure(), left=1, top=1, height=3, width=5)
    draw_boxes(axes, make_evidence(geometry, np.arange(21), np.arange(1.0, 22)), max_boxes=4)
    assert sum(isinstance(p, Rectangle) for p in axes.patches) == 4
    assert "4 heaviest of 21" in axes.get_title(loc="left")
    assert {"1: 21", "4: 18"} < {t.get_text() for t in axes.texts}


def test_labels_of_boxes_with_a_common_corner_stay_apart():
    figure = Figure(dpi=100)
    axes = add_axes(figure, left=1, top=1, height=3, width=4)
    corner = [BACH.offsets[0], BACH.offsets[1], BACH.offsets[2], BACH.offsets[2] + 1, BACH.num_cells - 1]
    draw_boxes(axes, make_evidence(BACH, corner, [0.3, 0.25, 0.2, 0.15, 0.1]))
    figure_image(figure)
    places = [text.get_window_extent() for text in axes.texts]
    assert len(places) == 6  # with the scale bar's
    assert not any(one.overlaps(other) for i, one in enumerate(places) for other in places[:i])


@pytest.mark.parametrize(("mpp", "name"), [(0.42, "200 µm"), (4.0, "2 mm"), (0.001, "0.5 µm")])
def test_scale_bar_is_as_long_as_it_says(mpp, name):
    geometry = PatchGeometry((1536, 2048), mpp, (mpp,), 299)
    axes = add_axes(Figure(), left=1, top=1, height=3, width=4)
    place = draw_thumbnail(axes, make_evidence(geometry, location=(10, 20)))
    draw_scale_bar(axes, place, mpp)
    number, unit = axes.texts[0].get_text().split()
    (bar,) = axes.lines
    assert axes.texts[0].get_text() == name
    assert np.ptp(bar.get_xdata()) * mpp == pytest.approx(float(number) * (1000 if unit == "mm" else 1))


def test_scale_bar_lies_below_the_image_where_no_box_can_cover_it():
    figure = Figure(figsize=(6, 5), dpi=100)
    axes = add_axes(figure, left=1, top=1, height=3, width=4)
    draw_boxes(axes, make_evidence(BACH, [BACH.num_cells - 1], [1.0]))
    figure_image(figure)
    (bar,) = axes.lines
    (label,) = (text for text in axes.texts if text.get_text() == "200 µm")
    for part in (bar, label):
        assert part.get_window_extent().y1 < axes.bbox.y0 - 10
        assert part.get_window_extent().x1 <= axes.bbox.x1 + 2


@pytest.mark.parametrize("attention", [np.ones(20), np.ones((1, 21)), np.full(21, np.nan)])
def test_attention_that_does_not_fit_is_refused(attention):
    with pytest.raises(ValueError, match="attention must be 21 finite numbers"):
        attention_image(make_evidence(GEOMETRIES[0], attention=attention), 0)


@pytest.mark.parametrize("thumbnail", [np.zeros((30, 50, 3), np.uint8), np.zeros((3, 30, 50))])
def test_thumbnail_of_another_form_is_refused(thumbnail):
    with pytest.raises(ValueError, match=r"uint8 \(3, height, width\)"):
        patch_boxes_image(make_evidence(GEOMETRIES[0], [0], [1.0], thumbnail=thumbnail))


def test_evidence_without_a_thumbnail_is_refused():
    with pytest.raises(ValueError, match=r"a\.png: evidence without a thumbnail"):
        patch_boxes_image(make_evidence(GEOMETRIES[0], thumbnail=None))


@pytest.mark.parametrize("size", [(80_000, 100_000), (100_000, 9000)])
def test_ten_magnifications_are_told_apart(size):
    """By colour; the names of those that have a box stand in two rows between title and picture."""
    geometry = PatchGeometry(size, 0.25, [0.25 * 2**j for j in range(10)], 299)
    figure = Figure(figsize=(5, 5))
    axes = add_axes(figure, left=0.8, top=0.8, height=3.5, width=3.5)
    thumbnail = np.full((3, 100, 100), GREY, np.uint8)
    for levels in (range(10), (2, 5)):
        axes.clear()
        cells = [geometry.offsets[j] for j in levels]
        weights = np.linspace(0.1, 0.05, len(levels))
        draw_boxes(axes, make_evidence(geometry, cells, weights, thumbnail=thumbnail))
        figure_image(figure)
        legend = axes.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == [geometry.names[j] for j in levels]
        colours = [line.get_color() for line in legend.get_lines()]
        assert colours == [pick_color(j) for j in levels]
        assert len(set(colours)) == len(levels)
        (title,) = (text for text in axes.findobj(Text) if "sampled patches" in text.get_text())
        lines, place = title.get_text().count("\n") + 1, title.get_window_extent()
        assert axes.bbox.y1 <= legend.get_window_extent().y0
        assert legend.get_window_extent().y1 <= place.y1 - place.height / lines + 2
