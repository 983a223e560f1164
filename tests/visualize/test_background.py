# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Backgrounds of pictures for people are read from the image, not enlarged from the network's thumbnail."""

from __future__ import annotations

import numpy as np
import pytest
from attention_cases import item, make_pyramid, output, show
from PIL import Image
from record_cases import pyramid_of, record_of
from visualize_cases import make_evidence

from monai_jsma.handlers import AttentionImageSaver
from monai_jsma.visualize import overview_figure, read_background, record_boxes_image, record_figure


def noise(size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def shown(figure):
    """Height and width of the background in the first panel."""
    return figure.axes[0].images[0].get_array().shape[:2]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1500, 1500), (640, 640)), ((900, 3600), (320, 1280)), ((100, 4000), (40, 1600)), ((200, 300), (200, 300))],
)
def test_background_has_the_pixels_that_are_drawn_and_no_more_than_the_image(size, expected):
    pyramid = make_pyramid(noise(size))
    thumbnail = pyramid.thumbnail((20, 30))
    evidence = make_evidence(pyramid.geometry, pyramid=pyramid, thumbnail=thumbnail)
    sharp = read_background(evidence)
    assert sharp.thumbnail.shape == (3, *expected)
    np.testing.assert_array_equal(sharp.thumbnail, pyramid.thumbnail(expected))
    axes = overview_figure(sharp).axes[0]
    drawn = axes.get_window_extent()
    if max(expected) < max(size):
        np.testing.assert_allclose((drawn.height, drawn.width), expected, atol=60)  # no side is under 0.6 inches


def test_background_can_be_smaller():
    pyramid = make_pyramid(noise((1500, 1000)))
    evidence = make_evidence(pyramid.geometry, pyramid=pyramid, thumbnail=None)
    assert read_background(evidence, longer_side=300).thumbnail.shape == (3, 300, 200)


def test_evidence_without_a_pyramid_stays_as_it_is():
    evidence = make_evidence(make_pyramid(noise((80, 80))).geometry, pyramid=None)
    assert read_background(evidence) is evidence


def test_png_of_an_evaluation_is_sharp(tmp_path):
    pixels = noise((610, 610))
    pyramid = make_pyramid(pixels)
    show([[(item(pyramid), output(pyramid, {0: 1.0}, (0,), (1.0,)))]], AttentionImageSaver(tmp_path).attach)
    (path,) = tmp_path.iterdir()
    with Image.open(path) as image:
        written = np.asarray(image)
    inside = pixels[300:340, 300:340]  # pixel by pixel, as a panel is 610 pixels wide
    column = written[:, 20 + 300 : 20 + 340]
    found = [row for row in range(len(written) - 40) if np.array_equal(column[row : row + 40], inside)]
    assert len(found) == 1


def test_figures_of_records_are_sharp(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise((1400, 1400))).save(path)
    record = record_of(pyramid_of(path), {0: 1.0})
    assert shown(record_figure(record)) == (640, 640)
    assert min(record_boxes_image(record).shape[:2]) > 640
