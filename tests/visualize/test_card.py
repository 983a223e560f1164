# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The picture for TensorBoard: text that is drawn, boxes, maps and patches at their places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attention_cases import make_pyramid
from matplotlib.colors import to_rgb
from PIL import ImageDraw
from visualize_cases import GREY, extent, make_evidence

from monai_jsma.geometry import GridCell
from monai_jsma.visualize import describe_answer, describe_place, draw_card
from monai_jsma.visualize.attention import make_color_map
from monai_jsma.visualize.canvas import pick_color

SIZE = (960, 1600)  # 16 x 27 cells at 100X or so; wider than a panel, so a panel is 610 x 366 pixels


def evidence_of(pyramid, cells=(), weights=(), **more):
    return make_evidence(pyramid.geometry, cells, weights, pyramid=pyramid, thumbnail=None, **more)


def grey_evidence(cells=(), weights=(), size=SIZE, **more):
    return evidence_of(make_pyramid(np.full((*size, 3), GREY, np.uint8)), cells, weights, **more)


def panel_of(card, number):
    """The image of a panel, found by the grey that fills it: boxes, then maps, two in a row."""
    left = 20 + 630 * (number % 2)
    column = card[:, left + 1 : left + 609]
    rows = np.flatnonzero((np.ptp(column.astype(int), axis=2) + (column[..., 0] != 255) > 0).mean(1) > 0.9)
    starts = np.flatnonzero(np.diff(rows, prepend=-9) > 1)
    first = rows[starts[number // 2]]
    return card[first : first + 366, left : left + 610]


def drawn_texts(monkeypatch, evidence, **options):
    texts = []
    draw = ImageDraw.ImageDraw.text

    def keep(self, place, text, *args, **kwargs):
        texts.append(text)
        return draw(self, place, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", keep)
    draw_card(evidence, **options)
    return texts


def test_text_of_the_picture(monkeypatch):
    evidence = grey_evidence([3, 500, 3], [0.3, 0.25, 0.45])
    geometry = evidence.geometry
    attention = np.zeros(geometry.num_cells)
    attention[3], attention[500] = 0.75, 0.25
    texts = drawn_texts(monkeypatch, replace(evidence, attention=attention), title="a.png\nright: true A")
    share = np.prod(geometry.grids[0]) / geometry.num_cells
    assert texts[:2] == ["a.png", "right: true A"] or {"a.png", "right: true A"} < set(texts)
    expected = {
        "2 patches read", "200 µm", "1", "2",
        "100X: 75.0% of all attention", f"{0.75 / share:.2f} times its share of the cells",
        "200X: 25.0% of all attention", f"{0.25 / (1 - share):.2f} times its share of the cells",
        "attention of a cell: 0", "0.75",
        "1: weight 0.75", "100X, 40 µm", "2: weight 0.25", "200X, 20 µm",
    }  # fmt: skip
    assert expected <= set(texts)


def test_box_lies_where_its_patch_was_read():
    for level, row, col in ((0, 0, 0), (0, 5, 7), (1, 10, 3), (1, 23, 39)):
        evidence = grey_evidence()
        geometry = evidence.geometry
        index = geometry.index(GridCell(level, row, col))
        card = draw_card(grey_evidence([index], [1.0]))
        panel = panel_of(card, 0)
        color = np.round(np.array(to_rgb(pick_color(level))) * 255)
        found = extent((panel == color).all(2))
        box = geometry.box(index)
        scale = 610 / SIZE[1]
        expected = np.array([box.row, box.row + box.height, box.col, box.col + box.width]) * scale
        black = min(12, box.width * scale // 4) // 3
        np.testing.assert_allclose(found, expected + np.array([1, -1, 1, -1]) * black, atol=1)


def test_map_has_the_colour_of_each_cell_at_its_place():
    evidence = grey_evidence()
    geometry = evidence.geometry
    rng = np.random.default_rng(0)
    attention = rng.random(geometry.num_cells)
    attention /= attention.sum()
    card = draw_card(replace(evidence, attention=attention))
    scale = 610 / SIZE[1]
    for level in (0, 1):
        panel = panel_of(card, 1 + level)
        for row, col in ((0, 0), (3, 4), (11, 19)):
            index = geometry.index(GridCell(level, row, col))
            box = geometry.cell_box(index)
            pixel = panel[int((box.row + box.height / 2) * scale), int((box.col + box.width / 2) * scale)]
            red, green, blue, opacity = make_color_map()(attention[index] / attention.max())
            expected = (1 - opacity) * GREY + opacity * 255 * np.array([red, green, blue])
            np.testing.assert_allclose(pixel, expected, atol=1)


def test_background_is_read_at_the_size_it_is_drawn_and_patches_keep_their_pixels():
    pixels = np.random.default_rng(0).integers(1, 250, (*SIZE, 3), dtype=np.uint8)
    pyramid = make_pyramid(pixels)
    card = draw_card(evidence_of(pyramid, [5], [1.0]))
    panel = panel_of(card, 0)
    background = pyramid.thumbnail((366, 610)).transpose(1, 2, 0)
    np.testing.assert_array_equal(panel[100:], background[100:])

    patch = pyramid.read([5])[0].transpose(1, 2, 0)
    enlarged = patch.repeat(7, axis=0).repeat(7, axis=1)[21:-21, 21:-21]  # 40 pixels, 280 as drawn
    top = next(i for i in range(len(card) - 238) if np.array_equal(card[i, 41:279], enlarged[0]))
    np.testing.assert_array_equal(card[top : top + 238, 41:279], enlarged)


@pytest.mark.parametrize("size", [(40, 40), (30, 2000), (2000, 60), (256, 256)])
def test_any_shape_can_be_drawn(size):
    card = draw_card(grey_evidence([0], [1.0], size=size), title="x" * 300)
    assert card.dtype == np.uint8
    assert card.shape[1:] == (1280, 3)
    assert (card[:, -20:] == 255).all(), "nothing leaves the page"
    draw_card(grey_evidence(size=size))


def test_long_names_lose_their_middle(monkeypatch):
    texts = drawn_texts(monkeypatch, grey_evidence(), title=f"begin{'x' * 200}end.svs")
    (name,) = (text for text in texts if "…" in text)
    assert name.startswith("begin")
    assert name.endswith("end.svs")


@pytest.mark.parametrize(
    ("scores", "label", "expected"),
    [
        ([0.2, 0.8], 0, "wrong: true A, predicted B (0.80)"),
        ([0.2, 0.8], 1, "right: true B, predicted B (0.80)"),
        ([0.2, 0.8], None, "predicted B (0.80)"),
        ([-2.0, 3.0], 0, "wrong: true A, predicted B"),
        ([1.0], 1, "right: true B, predicted B"),
        (None, 1, "true B"),
        (None, None, ""),
    ],
)
def test_answer_in_words(scores, label, expected):
    evidence = grey_evidence(scores=None if scores is None else np.array(scores), label=label)
    assert describe_answer(evidence, ["A", "B"]) == expected


def test_place_and_classes_without_names():
    evidence = grey_evidence(file="x/b.svs", location=(20, 30), label=1)
    assert describe_place(evidence) == "b.svs, at row 20, column 30"
    assert describe_answer(evidence, None) == "true class 1"
    with pytest.raises(ValueError, match=r"x/b\.svs: class 1 has no name"):
        describe_answer(evidence, ["A"])


def test_evidence_of_a_record_without_pixels_is_refused():
    evidence = make_evidence(make_pyramid(np.zeros((80, 80, 3), np.uint8)).geometry, pyramid=None, thumbnail=None)
    with pytest.raises(ValueError, match=r"a\.png: evidence without a thumbnail"):
        draw_card(evidence)
