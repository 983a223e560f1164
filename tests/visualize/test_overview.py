# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from visualize_cases import GEOMETRIES, extent, make_evidence

from monai_jsma.geometry import PatchGeometry
from monai_jsma.visualize import figure_image, overview_figure, patch_strip_image


def test_strip_shows_patches_by_falling_weight():
    geometry = GEOMETRIES[0]
    shades = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 0, 0]], np.uint8)
    patches = np.broadcast_to(shades[:, :, None, None], (4, 3, 40, 40))
    evidence = make_evidence(geometry, [8, 2, 20, 8], [0.1, 0.5, 0.0, 0.3], patches=patches)
    image = patch_strip_image(evidence)
    where = {i: (image == shade).all(2) for i, shade in enumerate(shades[:3])}
    first, second = extent(where[1]), extent(where[0])
    assert first[3] < second[2], "the green patch (0.5) stands left of the red one (0.4 in two draws)"
    assert second[:2] == first[:2]
    assert second[3] - second[2] > 130  # pixels
    assert not where[2].any(), "a patch of weight 0 was not drawn"


def test_strip_wraps_and_has_the_heaviest_patches():
    geometry = GEOMETRIES[1]
    cells, weights = np.arange(12), np.arange(12, 0, -1.0)
    patches = np.zeros((12, 3, 40, 40), np.uint8)
    patches[:, 0] = 10 + 20 * np.arange(12)[:, None, None]
    evidence = make_evidence(geometry, cells, weights, patches=patches)
    image = patch_strip_image(evidence)
    shades = [extent((image == (10 + 20 * i, 0, 0)).all(2)) for i in range(12)]
    assert [s[0] for s in shades] == [shades[0][0]] * 8 + [shades[8][0]] * 4
    assert shades[8][0] > shades[0][1]
    assert shades[8][2] == shades[0][2]
    first_three = patch_strip_image(evidence, max_patches=3)
    assert [(first_three == (10 + 20 * i, 0, 0)).all(2).any() for i in range(12)] == [True] * 3 + [False] * 9


def test_strip_of_a_record_without_its_file_is_refused():
    with pytest.raises(ValueError, match=r"a\.png: evidence of a record has no pyramid"):
        patch_strip_image(make_evidence(GEOMETRIES[0], [0], [1.0], pyramid=None))


def test_strip_of_nothing_is_an_empty_picture():
    image = patch_strip_image(make_evidence(GEOMETRIES[0], [0], [0.0]))
    assert (image == 255).all()


@pytest.mark.parametrize("size", [(256, 256), (1536, 2048), (2000, 600), (300, 3000)])
def test_overview_has_all_parts_inside_the_page_and_apart(size):
    geometry = PatchGeometry(size, 0.5, (2.0, 1.0, 0.5), 128)
    evidence = make_evidence(geometry, [0, geometry.num_cells - 1, 1], [0.2, 0.5, 0.3])
    figure = overview_figure(evidence, title="a.png")
    figure_image(figure)
    assert [text.get_text() for text in figure.texts] == ["a.png"]
    boxes, *maps = figure.axes[:4]
    assert "3 sampled patches" in boxes.get_title(loc="left")
    assert [m.get_title(loc="left").split()[0] for m in maps] == ["50X", "100X", "200X"]
    captions = [axes.get_xlabel().split("\n")[0] for axes in figure.axes[4:]]
    assert captions == ["1: 0.5", "2: 0.3", "3: 0.2"]
    parts = [axes.get_tightbbox() for axes in figure.axes] + [figure.texts[0].get_window_extent()]
    page = figure.bbox
    assert all(page.x0 <= p.x0 and p.x1 <= page.x1 and page.y0 <= p.y0 and p.y1 <= page.y1 for p in parts)
    assert not any(one.overlaps(other) for i, one in enumerate(parts) for other in parts[:i])


def test_thumbnail_of_the_overview_keeps_its_colours():
    geometry = GEOMETRIES[0]
    thumbnail = np.zeros((3, 60, 100), np.uint8)
    thumbnail[:, :30, 50:] = np.array([200, 30, 120])[:, None, None]
    figure = overview_figure(make_evidence(geometry, thumbnail=thumbnail))
    image = figure_image(figure)
    top, bottom, left, right = extent((image == (200, 30, 120)).all(2))
    place = figure.axes[0].get_window_extent()
    np.testing.assert_allclose((right, left), (place.x1, (place.x0 + place.x1) / 2), atol=6)
    np.testing.assert_allclose((len(image) - top, len(image) - bottom), (place.y1, (place.y0 + place.y1) / 2), atol=6)


def test_wide_patches_are_measured_in_mm():
    geometry = PatchGeometry((3000, 3000), 1.0, (8.0, 1.0), 299)
    figure = overview_figure(make_evidence(geometry, [0, geometry.offsets[1]], [0.6, 0.4]))
    captions = [axes.get_xlabel().split("\n")[1] for axes in figure.axes[3:5]]
    assert captions == ["12.5X, 2.39 mm wide", "100X, 299 µm wide"]
