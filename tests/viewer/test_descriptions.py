# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the page is told: places in pixels of the file, attention by area, classes, annotations."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from matplotlib import colormaps
from record_cases import pyramid_of, record_of
from slide_files import picture, write_scn
from viewer_cases import make_records, make_slide

from monai_jsma.datalists.regions import Area
from monai_jsma.geometry import Box
from monai_jsma.predictions.evidence import InnerPatch, SeenRegion
from monai_jsma.viewer import SlideTiles, Viewer
from monai_jsma.viewer.descriptions import describe_page, describe_slide
from monai_jsma.visualize.canvas import pick_color

SQUARE = np.array([(10, 20), (10, 60), (50, 60), (50, 20)], float)  # row, column


@pytest.fixture
def records(tmp_path):
    return make_records(make_slide(tmp_path))


def described(records, areas=()):
    slide = SlideTiles({records[0].file: records}).open(0)
    content = describe_slide(records, slide, areas)
    return json.loads(json.dumps(content, allow_nan=False))


def test_regions_and_patches_lie_where_the_record_has_them(records):
    content = described(records)
    for record, region in zip(records, content["regions"], strict=True):
        assert region["box"] == [record.location[1], record.location[0], record.size[1], record.size[0]]
        for patch, told in zip(record.patches, region["patches"], strict=True):
            left, top, width, height = told["box"]
            np.testing.assert_allclose(Box(top, left, height, width), patch.box, atol=1e-5)
            assert (told["weight"], told["attention"]) == (patch.weight, patch.attention)
            level = record.geometry.names.index(patch.magnification)
            assert (told["magnification"], told["color"]) == (patch.magnification, pick_color(level))


def test_attention_by_area_is_a_multiple_of_the_mean(records):
    """Summed over the pixels of the region, slowly: the mean is 1, and each cell holds its attention."""
    for record, region in zip(records, described(records)["regions"], strict=True):
        (window,) = region["windows"]
        assert (window["box"], window["stage"]) == (region["box"], 0)
        height, width = record.size
        total = np.zeros((height, width))
        for grid, layer in zip(window["grids"], region["layers"], strict=True):
            cells = np.reshape(grid["density"], (grid["rows"], grid["cols"]))
            rows = np.arange(height) * grid["rows"] // height
            cols = np.arange(width) * grid["cols"] // width
            total += cells[rows][:, cols]
            share = cells.mean()
            assert share == pytest.approx(record.shares[layer["name"]], abs=1e-8)
            assert layer["texts"][0].startswith(f"{share:.1%}")
        assert total.mean() == pytest.approx(1, abs=0.05)  # cells do not end on whole pixels


def test_classes_by_probability_and_the_answer(records):
    whole, region = described(records)["regions"]
    assert whole["classes"] == [["tumour, viable", 0.75], ["benign", 0.25]]
    assert (whole["predicted"], whole["true"], whole["probability"]) == ("tumour, viable", "tumour, viable", 0.75)
    assert region["true"] == "benign"
    assert described([replace(records[0], label=None)])["regions"][0]["true"] is None


def test_the_list_names_each_slide_once(records, tmp_path):
    other = [replace(records[0], file="b/c.svs", classes=("x", "benign"))]
    page = describe_page({records[0].file: records, "b/c.svs": other}, title="t")
    assert [slide["name"] for slide in page["slides"]] == ["a.tif", "c.svs"]
    assert [len(slide["regions"]) for slide in page["slides"]] == [2, 1]
    assert page["classes"] == ["benign", "tumour, viable", "x"]
    viridis = 255 * colormaps["viridis"](np.linspace(0, 1, 256))[:, :3]
    np.testing.assert_allclose(page["colors"], viridis, atol=0.51)


def test_a_zoom_has_regions_and_the_patches_in_them(records):
    inner = [InnerPatch(magnification=f"{100 * i}X", mpp=1 / i, box=Box(5, i, 7, 9), weight=0.5) for i in (2, 1)]
    record = replace(records[0], inner_patches=tuple(inner), regions_looked_at=12)
    (region,) = described([record])["regions"]
    assert [patch["kind"] for patch in region["patches"]] == ["region", "region", "patch", "patch"]
    assert [patch["box"] for patch in region["patches"][2:]] == [[2, 5, 9, 7], [1, 5, 9, 7]]
    assert [patch["color"] for patch in region["patches"][2:]] == [pick_color(1), pick_color(0)]
    assert region["notes"] == ["12 regions were looked at, 2 patches read."]
    assert region["zooms"]


def test_stages_of_a_zoom_are_layers_over_the_regions_that_were_looked_at(records):
    """Two regions of a slide were looked at, in one of them a region, which has two magnifications."""

    def region(stage, box, magnifications, attention):
        return SeenRegion(
            stage=stage,
            box=Box(*box),
            probability=0.5,
            magnifications=magnifications,
            patch_size=20,
            aligned=False,
            attention=attention,
        )

    seen = (
        region(2, (20, 40, 40, 80), (1.0, 0.5), (0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.0, 0.25)),
        region(1, (0, 0, 160, 160), (2.0,), (0.0, 1.0, 0.0, 0.0)),
        region(1, (0, 160, 160, 160), (2.0,), (0.25, 0.25, 0.25, 0.25)),
    )
    record = replace(records[0], inner_patches=(), regions_looked_at=3, seen_regions=seen)
    (told,) = described([record])["regions"]
    assert [layer["name"] for layer in told["layers"]] == ["Regions of the slide", "Regions of stage 2", "100X", "200X"]
    assert told["layers"][1]["texts"] == ["regions of stage 1 that were looked at: 2"]
    assert told["layers"][3]["texts"] == ["regions of stage 2 that were looked at: 1"]
    found = []
    for window in told["windows"][1:]:
        found.append((window["stage"], window["box"], [(grid["layer"], grid["density"]) for grid in window["grids"]]))
    assert found == [
        (1, [0, 0, 160, 160], [(1, [0, 4, 0, 0])]),
        (1, [160, 0, 160, 160], [(1, [1, 1, 1, 1])]),
        (2, [40, 20, 80, 40], [(2, [1, 0]), (3, [0, 0, 0, 0, 0, 2, 0, 2])]),
    ]


def test_how_sure_a_prediction_is(records):
    notes = described([replace(records[0], certified=True)])["regions"][0]["notes"]
    assert notes == ["All patches would give the same class: that is certain.", "2 of 30 patches were read."]
    notes = described([replace(records[0], certified=True, confidence=0.95)])["regions"][0]["notes"]
    assert notes[0] == "All patches would give the same class, at a confidence of 95.0%."
    notes = described([replace(records[0], certified=False)])["regions"][0]["notes"]
    assert notes[0] == "All patches might give another class: reading ended before that was certain."
    draws = ((0.1, 0.9), (0.4, 0.6))
    notes = described([replace(records[0], draw_probabilities=draws)])["regions"][0]["notes"]
    assert notes[0] == "Mean of 2 draws, whose probabilities spread by 0.15."


def test_a_patch_beyond_a_small_image_is_cut(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(30, 50), photometric="rgb")
    (region,) = described([record_of(pyramid_of(path), {0: 1.0})])["regions"]
    assert [patch["box"] for patch in region["patches"]] == [[0, 0, 50, 30]]


def test_annotations_by_class_with_holes(records):
    areas = [Area(("tumour",), SQUARE, (SQUARE / 2,)), Area((), SQUARE + 100), Area(("tumour", "x"), SQUARE * 2)]
    unnamed, tumour = described(records, areas)["annotations"]
    assert (unnamed["name"], len(unnamed["outlines"])) == ("annotation", 1)
    assert (tumour["name"], len(tumour["outlines"])) == ("tumour", 3)
    assert tumour["outlines"][0] == [[20, 10], [60, 10], [60, 50], [20, 50]]


def test_long_outlines_are_thinned(records):
    ring = np.tile(SQUARE, (15_000, 1))
    (annotation,) = described(records, [Area(("a",), ring)])["annotations"]
    assert len(annotation["outlines"][0]) == 20_000


def test_annotations_that_count_from_the_bounds_are_moved(tmp_path):
    path = write_scn(tmp_path / "a.scn", picture(256, 256), location=(40, 70), canvas=(512, 512))
    records = [record_of(pyramid_of(path), {0: 1.0})]
    slide = SlideTiles({path: records}).open(0)
    bounds = slide.info.bounds
    assert bounds is not None
    content = describe_slide(records, slide, [Area(("a",), SQUARE, frame="bounds")])
    moved = SQUARE + (bounds.row, bounds.col)
    assert content["annotations"][0]["outlines"][0] == moved[:, ::-1].tolist()
    assert content["image"] == [bounds.col, bounds.row, bounds.width, bounds.height]


def test_names_that_are_not_utf_8_are_sent(records):
    viewer = Viewer([replace(records[0], file="a\udcff.tif")])
    page = json.loads(viewer.answer("/predictions.json").content)
    assert page["slides"][0]["name"] == "a\udcff.tif"
