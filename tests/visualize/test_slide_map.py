# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The map of a slide: attention where its cells lie, classes where their regions lie, patches where they were read."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import shapely
import tifffile
import torch
from matplotlib.colors import to_rgb
from PIL import ImageDraw
from prediction_cases import predict
from record_cases import CLASSES, pyramid_of, record_of
from slide_files import levels_of, write_pyramid
from tiny_zoom import stage, zoom_net

from monai_jsma.datalists.regions import Area
from monai_jsma.geometry import Box
from monai_jsma.inferers import JSMAInferer
from monai_jsma.networks import TopK
from monai_jsma.predictions import read_records
from monai_jsma.visualize import draw_slide_map, feature_collection, is_slide, write_run_pictures
from monai_jsma.visualize.canvas import pick_class_color, pick_color
from monai_jsma.visualize.record_choice import choose_records
from monai_jsma.visualize.slide_layers import AttentionGrid, find_scale, list_layers, paint_grid
from monai_jsma.visualize.slide_map import _PANEL_WIDTH

GREY = 100
SIZE = (1200, 1600)  # of the slide; a panel is 720 x 960 pixels


@pytest.fixture
def slide(tmp_path):
    path = tmp_path / "slide.tif"
    write_pyramid(path, [np.full((*SIZE, 3), GREY, np.uint8)], compression="deflate", mpp=0.5)
    return str(path)


def region_of(slide, row, col, probabilities, attention=None, **more):
    region = pyramid_of(slide, origin=(row, col), size=(400, 400))
    record = record_of(region, attention or {0: 1.0})
    return replace(record, probabilities=probabilities, **more)


def panels_of(page):
    """The images of the page, found by what fills them: everything but white in whole rows."""
    found = []
    for left in (20, 40 + _PANEL_WIDTH):
        column = page[:, left : left + _PANEL_WIDTH].astype(int)
        is_filled = (column != 255).any(2).mean(1) > 0.6
        edges = np.flatnonzero(np.diff(np.concatenate([[0], is_filled, [0]])))
        for top, bottom in zip(edges[::2], edges[1::2]):
            if bottom - top > 400:
                found.append((top, left, page[top:bottom, left : left + _PANEL_WIDTH]))
    return [panel for _, _, panel in sorted(found, key=lambda one: one[:2])]


def drawn_texts(monkeypatch, records, **options):
    texts = []
    draw = ImageDraw.ImageDraw.text

    def keep(self, place, text, *args, **kwargs):
        texts.append(text)
        return draw(self, place, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", keep)
    page = draw_slide_map(records, **options)
    return texts, page


def test_regions_have_the_color_of_their_class_and_wrong_ones_are_crossed_out(slide, monkeypatch):
    records = [
        region_of(slide, 0, 0, (1.0, 0.0), label=0),
        region_of(slide, 400, 800, (0.0, 1.0), label=0),
        region_of(slide, 800, 1200, (0.6, 0.4), label=0),
    ]
    texts, page = drawn_texts(monkeypatch, records)
    tissue, classes, *_ = panels_of(page)
    assert tissue.shape == classes.shape == (720, 960, 3)
    assert (tissue == GREY).all()
    scale = 960 / 1600
    for record, opacity in zip(records, (0.75, 0.75, 0.25 + 0.5 * 0.2)):
        row, col = (round((place + 200) * scale) for place in record.location)
        color = 255 * np.array(to_rgb(pick_class_color(record.prediction)))
        expected = (1 - opacity) * GREY + opacity * color
        window = classes[row - 90 : row - 60, col - 15 : col + 15].reshape(-1, 3)  # above the cross
        np.testing.assert_allclose(window, np.tile(expected, (len(window), 1)), atol=1)
        crossed = (classes[row - 5 : row + 5, col - 5 : col + 5] == 0).all(2).any()
        assert crossed == (record.prediction != 0)
    assert (classes[:200, 500:] == GREY).all(), "outside of the regions"
    for text in ("benign: 2 regions", "tumour, viable: 1 region", "crossed out: wrong, 1 of 3"):
        assert text in texts
    for text in ("slide.tif", "right: true benign, predicted benign (0.53)", "mean of 3 regions, 3 patches read"):
        assert text in texts
    assert "200 µm" in texts


def test_attention_lies_where_its_cells_do(slide, monkeypatch):
    """Cell 4 at 200X of a region of 10 x 10 and 5 x 5 cells: the highest of all has the color of the scale's end."""
    first = region_of(slide, 0, 0, (1.0, 0.0), {0: 0.5, 25 + 11: 0.5})
    second = region_of(slide, 800, 1200, (1.0, 0.0), {25 + 99: 1.0})
    assert first.geometry.grids == ((5, 5), (10, 10))
    texts, page = drawn_texts(monkeypatch, [first, second])
    _, _, coarse, fine = panels_of(page)
    scale = 960 / 1600
    for panel, boxes in (
        (coarse, [Box(0, 0, 80, 80)]),
        (fine, [Box(40, 40, 40, 40), Box(1160, 1560, 40, 40)]),
    ):
        expected = np.zeros(panel.shape[:2], bool)
        for box in boxes:
            top, left = box.row * scale, box.col * scale
            expected[round(top) : round(top + box.height * scale), round(left) : round(left + box.width * scale)] = True
        np.testing.assert_array_equal((panel != GREY).any(2), expected)
    assert "100X: 25.0% of all attention" in texts
    assert f"{0.75 / 0.8:.2f} times its share of the cells" in texts


@pytest.mark.parametrize(("num_cells", "num_pixels"), [(3, 40), (40, 3), (7, 7), (5, 13)])
def test_no_cell_is_lost_and_each_pixel_shows_the_cell_at_its_center(num_cells, num_pixels):
    rng = np.random.default_rng(0)
    values = rng.random((num_cells, num_cells))
    edges = np.linspace(100, 300, num_cells + 1)
    layer = np.full((num_pixels, num_pixels), np.nan)
    paint_grid(layer, AttentionGrid(values, edges, edges), view=Box(100, 100, 200, 200))
    for row in range(num_pixels):
        for col in range(num_pixels):
            places = [100 + (place + 0.5) * 200 / num_pixels for place in (row, col)]
            at_center = tuple(min(int((place - 100) * num_cells / 200), num_cells - 1) for place in places)
            inside = [values[at_center]]
            for cell in np.ndindex(values.shape):
                centers = [(number + 0.5) * num_pixels / num_cells for number in cell]
                if [int(center) for center in centers] == [row, col]:
                    inside.append(values[cell])
            assert layer[row, col] == max(inside)


def test_colors_run_to_the_high_values_not_to_the_only_highest(slide, monkeypatch):
    one = region_of(slide, 0, 0, (1.0, 0.0))
    attention = np.full(125, 0.4 / 122)
    attention[[7, 80, 90]] = 0.3, 0.2, 0.1
    record = replace(one, attention=tuple(attention.tolist()))
    end = 0.2 + 0.755 * 0.1  # of 250 cells, at 0.995 * 249 = 247.755: between the second 0.2 and the first 0.3
    assert find_scale(list_layers([record, record])) == pytest.approx((end, 0.3))
    texts, _ = drawn_texts(monkeypatch, [record, record])
    assert f"{end:.2g} and more" in texts
    assert find_scale(list_layers([record])) == (0.3, 0.3), "too few cells to leave one out"

    concentrated = replace(one, attention=(*[0.0] * 124, 1.0))
    nothing = replace(one, attention=(0.0,) * 125)
    assert find_scale(list_layers([concentrated] + [nothing] * 8)).end == 0.1, "no lower than a tenth"


def test_annotations_are_outlined(slide, monkeypatch):
    record = region_of(slide, 0, 0, (1.0, 0.0))
    area = Area(("tumour",), np.array([(300.0, 300.0), (300, 900), (900, 900), (900, 300)]))
    texts, page = drawn_texts(monkeypatch, [record], areas=[area])
    tissue = panels_of(page)[0].astype(int)
    is_blue = (tissue[..., 2] > 200) & (tissue[..., 0] < 60)
    rows, cols = np.flatnonzero(is_blue.any(1)), np.flatnonzero(is_blue.any(0))
    assert [rows[0], rows[-1], cols[0], cols[-1]] == pytest.approx([180, 540, 180, 540], abs=4)
    assert "annotated: tumour" in texts
    outside = replace(area, ring=area.ring + 5000)
    with pytest.raises(ValueError, match="outside the slide"):
        draw_slide_map([record], areas=[outside])


# --------------------------------------------------------------------------------------------------------------- zoom


@pytest.fixture(params=[1, 2], ids=["one_stage", "two_stages"])
def zoomed(request, tmp_path):
    """The record of a slide that a network of one or two stages zoomed into."""
    from monai.transforms import Compose

    from monai_jsma.transforms import FindTissued, LoadPyramidd, PyramidThumbnaild

    generator = np.random.default_rng(0)
    pixels = generator.integers(225, 246, (300, 400, 1), dtype=np.uint8).repeat(3, axis=2)  # glass
    pixels[60:260, 80:330] = generator.integers(60, 200, (200, 250, 3)) * [1, 0.5, 0.9]
    path = str(tmp_path / "zoomed.tif")
    write_pyramid(path, levels_of(pixels, (2,)), tile=(16, 16), compression="zlib", mpp=1.0)
    loader = LoadPyramidd("image", (2.0, 1.0), patch_size=8)
    view = Compose([loader, FindTissued("image"), PyramidThumbnaild("image", (16, 16))])
    torch.manual_seed(0)
    net = zoom_net(*([stage(96)] if request.param == 1 else [stage(96), stage(32)])).eval()
    predict(tmp_path / "out", [{"image": path, "label": 1}], net, view=view, inferer=JSMAInferer(TopK(5)))
    (record,) = read_records(tmp_path / "out" / "predictions.jsonl")
    return record, request.param


def test_layers_of_a_zoom_are_its_stages_and_the_magnifications_inside(zoomed):
    record, depth = zoomed
    layers = list_layers([record])
    assert [layer.kind for layer in layers] == ["region"] * depth + ["cell"] * 2
    last = [region for region in record.seen_regions if region.stage == depth]
    for number, layer in enumerate(layers[:depth], start=1):
        seen = [region for region in record.seen_regions if region.stage == number]
        share = sum(region.probability for region in seen)
        assert layer.note == f"{len(seen)} looked into, with {share:.1%} of all attention"
        assert layer.title.startswith(f"Stage {number}: attention over ")
    np.testing.assert_array_equal(layers[0].grids[0].values.ravel(), record.attention)

    known = sum(region.probability for region in last)
    total = sum(grid.values.sum() for layer in layers[depth:] for grid in layer.grids)
    assert total == pytest.approx(known)
    for level, layer in enumerate(layers[depth:]):
        for region, grid in zip(last, layer.grids, strict=True):
            geometry = region.make_geometry(record.mpp)
            cells = np.array(region.attention)[geometry.slices[geometry.names[level]]]
            np.testing.assert_allclose(grid.values.ravel(), cells * region.probability)
            assert (grid.row_edges[0], grid.col_edges[0]) == (region.box.row, region.box.col)
            assert grid.row_edges[-1] == region.box.row + region.box.height
    # Records of earlier versions know the first stage alone.
    (old,) = list_layers([replace(record, seen_regions=None)])
    assert old.note == f"{record.regions_looked_at} were looked at"


def test_the_map_of_a_zoom_shows_the_patches_that_were_read(zoomed, monkeypatch):
    record, _ = zoomed
    texts, page = drawn_texts(monkeypatch, [record], max_patches=3)
    assert is_slide([record])
    assert f"{record.regions_looked_at} regions looked at, {record.patches_read} patches read" in texts
    assert [text for text in texts if text in "123456"] == ["1", "2", "3"]
    weights = [text for text in texts if ": weight " in text]
    assert len(weights) == 3
    number = int(np.argmax([read_patch(record.file, patch).std() for patch in record.inner_patches[:3]]))
    expected = read_patch(record.file, record.inner_patches[number])
    assert expected.std() > 2
    side = 300 // 8
    inner = expected.repeat(side, 0).repeat(side, 1)[60:-60, 60:-60]  # within the frame
    left = 20 + number * (8 * side + 20)
    strip = page[-1200:, left + 60 : left + 8 * side - 60].astype(int)
    tops = range(len(strip) - len(inner))
    found = [top for top in tops if np.abs(strip[top : top + len(inner)] - inner).max() <= 1]
    assert len(found) == 1


def test_a_magnification_has_the_same_color_in_all_panels(zoomed):
    record, _ = zoomed
    finest = replace(record.inner_patches[0], magnification="100X", mpp=1.0)
    numbers = []
    for patches in ((), (finest,)):
        page = draw_slide_map([replace(record, inner_patches=patches)])
        numbers.append([int((page == color_of(level)).all(2).sum()) for level in (0, 1)])
    none, one = numbers
    assert one[0] == none[0]  # the coarse one was not read
    assert one[1] > none[1] > 0
    (patch,) = (
        feature
        for feature in feature_collection([replace(record, inner_patches=(finest,))])["features"]
        if feature["properties"]["name"].startswith("patch 1: 100X")
    )
    assert patch["properties"]["color"] == color_of(1).tolist()


def color_of(level):
    return np.round(np.multiply(to_rgb(pick_color(level)), 255)).astype(np.uint8)


def read_patch(file, patch):
    """A patch from the level of its spacing, as another library reads it."""
    level = {1.0: 0, 2.0: 1}[patch.mpp]
    pixels = tifffile.imread(file, level=level)
    row, col, height, width = (round(number / patch.mpp) for number in patch.box)
    return pixels[row : row + height, col : col + width].astype(int)


def test_the_cells_of_a_zoom_in_qupath_lie_in_their_regions(zoomed):
    record, depth = zoomed
    features = feature_collection([record], cells=True)["features"]
    tiles = [feature for feature in features if feature["properties"]["objectType"] == "tile"]
    assert len({feature["id"] for feature in features}) == len(features)
    sums = {}
    for tile in tiles:
        ((name, value),) = tile["properties"]["measurements"].items()
        sums[name] = sums.get(name, 0) + value
    stages = [f"attention stage {number}" for number in range(1, depth + 1)]
    assert list(sums) == [*stages, "attention 50X", "attention 100X"]
    for number, name in enumerate(stages):
        above = [region for region in record.seen_regions if region.stage == number]
        assert sums[name] == pytest.approx(sum(region.probability for region in above) if number else 1)
    last = [region for region in record.seen_regions if region.stage == depth]
    known = sum(region.probability for region in last)
    assert sums["attention 50X"] + sums["attention 100X"] == pytest.approx(known)
    boxes = [shapely.box(b.col, b.row, b.col + b.width, b.row + b.height) for b in (region.box for region in last)]
    for tile in tiles:
        if "X" in next(iter(tile["properties"]["measurements"])):
            assert any(box.covers(shapely.geometry.shape(tile["geometry"])) for box in boxes)


# --------------------------------------------------------------------------------------------------------- which ones


def choose_slowly(records, number):
    """Turn by turn, each time the best of all that are left."""

    def entropy(record):
        return record.predictive_entropy

    chosen = []
    turn = 0
    while len(chosen) < min(number, len(records)):
        left = [record for record in records if record not in chosen]
        kind = ("wrong", "most certain", "most uncertain")[turn % 3]
        turn += 1
        if kind == "wrong":
            left = [record for record in left if record.label is not None and record.label != record.prediction]
            left.sort(key=lambda record: (record.probabilities[record.label], record.key))
        elif kind == "most certain":
            left.sort(key=lambda record: (entropy(record), record.key))
        else:
            left.sort(key=lambda record: (-entropy(record), record.key))
        if left:
            chosen.append(left[0])
    return chosen


@pytest.mark.parametrize("number", [1, 4, 9, 12, 40])
@pytest.mark.parametrize("labels", [(None,), (0, 1), (0, 0, None)])
def test_wrong_certain_and_uncertain_regions_are_chosen_in_turn(slide, number, labels):
    made = region_of(slide, 0, 0, (1.0, 0.0))
    rng = np.random.default_rng(number)
    records = []
    for i in range(15):
        first = float(rng.integers(0, 9)) / 8
        label = labels[i % len(labels)]
        records.append(replace(made, location=(i, 0), probabilities=(first, 1 - first), label=label))
    chosen = choose_records(records, number)
    assert [record for record, _ in chosen] == choose_slowly(records, number)
    for record, reason in chosen:
        if reason == "wrong":
            assert record.label not in (None, record.prediction)
    assert len(choose_records(records, None)) == 15


def test_the_pictures_of_a_run_are_a_map_and_a_few_cards(slide, tmp_path):
    places = [(0, 0), (400, 400), (800, 800), (0, 800), (800, 0)]
    records = [region_of(slide, *place, (1 - i / 8, i / 8), label=0) for i, place in enumerate(places)]
    out = tmp_path / "out"
    assert write_run_pictures(records, out, max_pictures=3) == []
    (page,) = (out / "maps").glob("*.png")
    (objects,) = (out / "maps").glob("*.geojson")
    assert json.loads(objects.read_text()) == feature_collection(records, cells=True)
    cards = {path.name for path in (out / "attention").iterdir()}
    assert len(cards) == 3
    listed = [line.split(",")[:2] for line in (out / "pictures.csv").read_text().splitlines()[1:]]
    assert {name for name, _ in listed} == {
        f"maps/{page.name}", f"maps/{objects.name}", *(f"attention/{name}" for name in cards)
    }  # fmt: skip
    assert [reason for _, reason in listed] == [
        "map of the slide", "map of the slide", "most certain", "most uncertain", "most certain"
    ]  # fmt: skip

    # Pictures of the earlier run that are not drawn now would show other predictions; other files are not ours.
    (out / "attention" / "mine.png").write_bytes(b"")
    assert write_run_pictures(records[:1], out, max_pictures=1) == []
    assert len(list((out / "attention").iterdir())) == 2
    assert (out / "attention" / "mine.png").exists()
    assert list((out / "maps").iterdir()) == []
    assert write_run_pictures(records, out, max_pictures=0) == []
    assert sorted(path.name for path in (out / "attention").iterdir()) == ["mine.png"]
    assert not (out / "pictures.csv").exists()


def test_what_cannot_be_drawn_is_told_and_the_rest_goes_on(slide, tmp_path):
    path = tmp_path / "gone.tif"
    write_pyramid(path, [np.full((*SIZE, 3), GREY, np.uint8)], compression="deflate", mpp=0.5)
    gone = region_of(str(path), 800, 800, (1.0, 0.0))
    path.unlink()
    faults = write_run_pictures([region_of(slide, 0, 0, (1.0, 0.0)), gone], tmp_path / "out")
    assert len(faults) == 2  # its map and its card
    assert all("gone.tif: there is no such file" in fault for fault in faults)
    assert len(list((tmp_path / "out" / "attention").iterdir())) == 1


def test_an_image_that_was_predicted_whole_has_no_map(slide):
    whole = record_of(pyramid_of(slide), {0: 1.0})
    assert not is_slide([whole])
    assert is_slide([region_of(slide, 8, 0, (1.0, 0.0))])
    assert whole.classes == CLASSES
