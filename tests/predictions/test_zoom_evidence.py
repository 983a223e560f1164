# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Predictions of whole slides: records keep the attention over the regions, and the patches inside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
import torch
from ignite.engine import Engine, Events
from monai.transforms import Compose
from prediction_cases import predict, stopped
from slide_files import levels_of, write_pyramid
from tiny_zoom import stage, zoom_net

from monai_jsma.data import PyramidBatch
from monai_jsma.datalists import find_tissue
from monai_jsma.geometry import ORIENTATIONS
from monai_jsma.handlers import AttentionImageSaver
from monai_jsma.inferers import JSMAInferer
from monai_jsma.networks import AllPatches, Certified, Draws, TopK
from monai_jsma.predictions import PredictionRecord, collect_evidence, read_records
from monai_jsma.transforms import FindTissued, LoadPyramid, LoadPyramidd, PyramidThumbnaild
from monai_jsma.visualize import feature_collection, overview_figure

VIEW = Compose(
    [LoadPyramidd("image", (2.0, 1.0), patch_size=8), FindTissued("image"), PyramidThumbnaild("image", (16, 16))]
)


def tissue_slide(height: int, width: int, seed: int) -> np.ndarray:
    """White glass with a colored rectangle in it."""
    pixels = np.full((height, width, 3), 245, np.uint8)
    noise = np.random.default_rng(seed).integers(0, 60, (height // 2, width // 2, 3))
    pixels[height // 4 : height // 4 + height // 2, width // 3 : width // 3 + width // 2] = (200, 90, 160) - noise
    return pixels


@pytest.fixture
def items(tmp_path) -> list[dict]:
    found = []
    for i, size in enumerate(((160, 128), (96, 200), (300, 240))):
        path = tmp_path / f"{i}.tif"
        write_pyramid(path, levels_of(tissue_slide(*size, seed=i), (2,)), tile=(16, 16), compression="zlib", mpp=1.0)
        found.append({"image": str(path), "label": i, "patient": f"P{i}"})
    return found


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("sampler", [TopK(5), Certified(7), Draws(3, 4)], ids=repr)
def test_records_keep_the_regions_and_the_patches_inside_them(items, tmp_path, sampler, stages):
    net = zoom_net(*([stage()] if stages == 1 else [stage(48), stage()]), feature_norm="l2").eval()
    pictures = AttentionImageSaver(tmp_path / "pictures")
    inferer = JSMAInferer(sampler, seed=3)
    metrics = predict(tmp_path / "out", items, net, view=VIEW, inferer=inferer, handlers=[pictures])
    records = read_records(tmp_path / "out" / "predictions.jsonl")
    assert metrics["patches_read"] == np.mean([record.patches_read for record in records])
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3
    for item, record in zip(items, records, strict=True):
        slide = LoadPyramid((2.0, 1.0), patch_size=8)(item["image"])
        slide = slide.with_tissue(find_tissue(slide))
        slides = PyramidBatch([slide])
        thumbnails = slides.thumbnails((16, 16))
        with torch.no_grad():
            found = inferer(thumbnails, net, pyramid=slides, return_attention=True)
        np.testing.assert_allclose(record.attention, found["attention"][0], atol=1e-6)
        assert record.regions_looked_at == found["num_regions"].item()
        assert record.evidence.regions_looked_at == record.regions_looked_at

        expected = {}
        for path, cell, weight in zip(found["regions"][0].tolist(), found["cells"][0], found["weights"][0]):
            region = slide
            for number, size in zip(path, net.region_sizes):
                region = region.region(number, size)
            place = (*path, int(cell), region.box(int(cell)))  # regions overlap: two may have the same patch
            expected[place] = expected.get(place, 0.0) + float(weight)
        assert record.patches_read == len(expected) == len(record.inner_patches)
        by_box = sorted((place[-1], weight) for place, weight in expected.items())
        found_by_box = sorted((patch.box, patch.weight) for patch in record.inner_patches)
        for (box, weight), (found_box, found_weight) in zip(by_box, found_by_box, strict=True):
            assert found_box == box
            assert found_weight == pytest.approx(weight, abs=1e-6)
        for patch in record.inner_patches:
            assert patch.box.height == 8 * patch.mpp
            assert patch.magnification == {2.0: "50X", 1.0: "100X"}[patch.mpp]

        # What is drawn as cells are the regions of the first stage.
        shares = slide.tissue_shares(net.region_sizes[0])
        assert (np.array(record.attention)[shares == 0] == 0).all()
        assert sum(patch.weight for patch in record.patches) == pytest.approx(1, abs=1e-6)
        for cell, patch in zip(record.cells, record.patches, strict=True):
            region = slide.region(int(cell), net.region_sizes[0])
            assert patch.box == (*region.origin, *region.stored_geometry.size)
        line = record.to_json()
        assert PredictionRecord.from_json(line) == record
        assert "inner_patches" in json.loads(line)


def list_regions(net, window, probability=1.0, stage=0) -> list[tuple]:
    """All regions below a window, one after the other: stage, box, probability of coming to it, its attention."""
    batch = PyramidBatch([window])
    size = net.find_thumbnail_size(stage)
    with torch.no_grad():
        attention = net.attend(stage, batch.thumbnails(size), batch).log_prob[0].exp().tolist()
    found = [(stage, (*window.origin, *window.stored_geometry.size), probability, attention)]
    if stage < len(net.stages):
        for cell, share in enumerate(attention):
            if share > 0:
                below = window.region(cell, net.region_sizes[stage])
                found += list_regions(net, below, probability * share, stage + 1)
    return found


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("sampler", [TopK(5), AllPatches(), Draws(3, 4)], ids=repr)
def test_records_keep_the_attention_in_the_regions_that_were_looked_at(items, tmp_path, sampler, stages):
    net = zoom_net(*([stage()] if stages == 1 else [stage(48), stage()]), feature_norm="l2").eval()
    predict(tmp_path / "out", items, net, view=VIEW, inferer=JSMAInferer(sampler, seed=3))
    for record in read_records(tmp_path / "out" / "predictions.jsonl"):
        slide = LoadPyramid((2.0, 1.0), patch_size=8)(record.file)
        _, *regions = list_regions(net, slide.with_tissue(find_tissue(slide)))
        assert len(record.seen_regions) == record.regions_looked_at
        if sampler == AllPatches():
            assert record.regions_looked_at == len(regions)
        for seen in record.seen_regions:
            alike = [one for one in regions if one[:2] == (seen.stage, tuple(seen.box))]
            nearest = min(alike, key=lambda one: abs(one[2] - seen.probability))
            assert seen.probability == pytest.approx(nearest[2], abs=1e-6)
            np.testing.assert_allclose(seen.attention, nearest[3], atol=1e-6)
            assert seen.make_geometry(record.mpp).num_cells == len(seen.attention)
        last = [seen.box for seen in record.seen_regions if seen.stage == stages]
        for patch in record.inner_patches:
            assert any(shapely.box(*corners(box)).covers(shapely.box(*corners(patch.box))) for box in last)


def corners(box):
    return box.row, box.col, box.row + box.height, box.col + box.width


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_attention_of_a_turned_slide_is_kept_as_it_is_stored(orientation):
    net = zoom_net().eval()
    slide = LoadPyramid((2.0, 1.0), patch_size=8, default_mpp=1.0)(tissue_slide(96, 144, seed=0))
    turned = slide.oriented(orientation)
    slides = PyramidBatch([turned])
    with torch.no_grad():
        made = net(slides.thumbnails((16, 16)), slides, return_attention=True, sampler=TopK(3))
    engine = Engine(lambda engine, batch: None)
    engine.network = net
    engine.state.batch = [{"image": torch.zeros(3, 16, 16), "pyramid": turned}]
    engine.state.output = [{key: value[0] for key, value in made.items()}]
    (evidence,) = collect_evidence(engine)
    for number, seen in enumerate(evidence.seen_regions):
        cell = int(made["seen_regions"][0, number, 0])
        region = turned.region(cell, net.region_sizes[0])
        geometry = seen.make_geometry(1.0)
        for index in range(geometry.num_cells):  # as the network saw it
            stored = region.stored_index(index)
            row, col, height, width = geometry.box(stored)
            assert (row + seen.box.row, col + seen.box.col, height, width) == region.box(index)
            assert seen.attention[stored] == pytest.approx(float(made["seen_attention"][0, number, index]))


def test_qupath_gets_the_regions_and_the_patches_in_them(items, tmp_path):
    predict(tmp_path / "out", items, zoom_net().eval(), view=VIEW, inferer=JSMAInferer(TopK(5)))
    for record in read_records(tmp_path / "out" / "predictions.jsonl"):
        features = feature_collection([record])["features"]
        assert len({feature["id"] for feature in features}) == len(features)
        slide, *others = [shapely.geometry.shape(feature["geometry"]) for feature in features]
        regions = others[: len(record.patches)]
        patches = others[len(record.patches) :]
        assert [patch.bounds for patch in patches] == [
            (box.col, box.row, box.col + box.width, box.row + box.height)
            for box in (patch.box for patch in record.inner_patches)
        ]
        assert all(any(region.covers(patch) for region in regions) for patch in patches)
        assert all(slide.covers(region) for region in regions)
        names = [feature["properties"]["name"] for feature in features[-len(patches) :]]
        assert names[0].startswith("patch 1: ")


def test_figures_name_regions_and_show_the_patches_in_them(items, tmp_path):
    shown = []

    def draw(engine):
        shown.extend(collect_evidence(engine))

    class Draw:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED, draw)

    predict(tmp_path / "out", items[:1], zoom_net().eval(), view=VIEW, inferer=JSMAInferer(TopK(5)), handlers=[Draw()])
    (evidence,) = shown
    boxes, attention = overview_figure(evidence).axes[:2]
    num_regions = len(np.unique(evidence.cells[evidence.weights > 0]))
    assert boxes.get_title(loc="left").startswith(f"{num_regions} regions with 5 sampled patches")
    assert attention.get_title(loc="left").startswith(f"attention over {len(evidence.attention)} regions")
    corners = {patch.get_xy() for patch in boxes.patches if patch.get_linewidth() == 0.8}
    assert corners == {(patch.box.col, patch.box.row) for patch in evidence.inner_patches}


def test_strips_show_the_regions():
    slide = LoadPyramid((2.0, 1.0), patch_size=8, default_mpp=1.0)(tissue_slide(96, 144, seed=0))
    regions = slide.as_regions(24)
    for cell in range(regions.geometry.num_cells):
        pixels = regions.read([cell])[0]
        np.testing.assert_array_equal(pixels, slide.region(cell, 24).thumbnail((12, 12)))


def test_a_killed_run_of_slides_is_finished(items, tmp_path):
    net = zoom_net().eval()
    options = {"view": VIEW, "inferer": JSMAInferer(Draws(2, 3), seed=1)}
    whole = predict(tmp_path / "whole", items, net, **options)
    written = (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    stopped(tmp_path / "again", written, 1)
    assert predict(tmp_path / "again", items, net, **options) == pytest.approx(whole)
    assert (tmp_path / "again" / "predictions.jsonl").read_bytes() == written


def test_a_slide_without_tissue_is_a_failure_that_names_it(items, tmp_path):
    path = tmp_path / "blank.tif"
    write_pyramid(path, levels_of(np.full((96, 96, 3), 240, np.uint8), (2,)), tile=(16, 16), mpp=1.0)
    with pytest.raises(RuntimeError, match=r"1 of 4 regions failed.*blank\.tif: no tissue found"):
        predict(tmp_path / "out", [*items, {"image": str(path), "label": 0}], zoom_net().eval(), view=VIEW)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"regions_looked_at": "two"}, "regions_looked_at 'two' is no whole number"),
        ({"inner_patches": []}, "do not sum to those of their regions"),
        ({"seen_regions": []}, "there are 0 seen_regions, but"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(items, tmp_path, change, fault):
    predict(tmp_path / "out", items[:1], zoom_net().eval(), view=VIEW, inferer=JSMAInferer(TopK(2)))
    values = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    with pytest.raises(ValueError, match=fault):
        PredictionRecord.from_json(json.dumps({**values, **change}))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_regions_and_cells_of_turned_slides_lie_where_their_patches_do(orientation):
    slide = LoadPyramid((2.0, 1.0), patch_size=8, default_mpp=1.0)(tissue_slide(96, 144, seed=0)).oriented(orientation)
    regions = slide.as_regions(24)
    assert regions.geometry.grids == (slide.region_grid(24),)
    for cell in range(regions.geometry.num_cells):
        region = slide.region(cell, 24)
        assert regions.box(cell) == (*region.origin, *region.stored_geometry.size)
