# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A whole slide becomes items of its tissue; what is a region already stays; what gives no item is told and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slide_files import levels_of, overwrite, shared_slide, tile_range, write_pyramid

from monai_jsma._io import Fault
from monai_jsma.data import load_datalist, save_datalist, whole_slide_items
from monai_jsma.datalists import tissue
from monai_jsma.transforms import LoadPyramid, LoadPyramidd

GLASS, PINK = 244, (215, 150, 195)
TISSUE = (slice(200, 700), slice(300, 1000))  # rows and columns of the slides


def slide(
    path: Path, *tissue: tuple[slice, slice], size: tuple[int, int] = (900, 1300), mpp: float | None = 2.0
) -> str:
    """A slide of grey glass with pink tissue, in two levels."""
    pixels = np.full((*size, 3), GLASS, np.uint8)
    for place in tissue:
        pixels[place] = PINK
    return write_pyramid(path, levels_of(pixels, [2]), tile=(128, 128), compression="jpeg", mpp=mpp)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides of 900 x 1300 pixels of 2 um: with tissue, blank, with a little tissue, without spacing; and a picture."""
    folder = tmp_path_factory.mktemp("slides")
    slide(folder / "tissue.tif", TISSUE)
    slide(folder / "blank.tif")
    slide(folder / "little.tif", (slice(400, 460), slice(600, 660)))
    slide(folder / "unknown.tif", TISSUE, mpp=None)
    Image.fromarray(np.full((900, 1300, 3), PINK, np.uint8)).save(folder / "flat.png")
    (folder / "text.svs").write_text("no slide at all")
    (folder / "empty.svs").write_bytes(b"")
    return folder


def test_a_slide_becomes_the_regions_of_its_tissue_and_keeps_what_is_known_of_it(files):
    item = {"image": str(files / "tissue.tif"), "label": 1, "patient": "P1", "mpp": 2.0, "mpp_source": "datalist"}
    items, unread = whole_slide_items([item], (200, 300), "100X", magnifications=(8.0, 4.0, 2.0))
    assert unread == []
    assert [{**i, "location": 0, "size": 0, "tissue": 0} for i in items] == [
        {**item, "location": 0, "size": 0, "tissue": 0}
    ] * len(items)
    assert all(i["size"] == [100, 150] for i in items)  # 200 um of 2 um
    # Mask pixels are 4 x 4 level-0 pixels: the tissue's 500 rows are 5 regions, its 700 columns 5 of 150 that overlap.
    assert [tuple(i["location"]) for i in items] == [
        (row, col) for row in (200, 300, 400, 500, 600) for col in (300, 435, 575, 715, 850)
    ]
    assert all(i["tissue"] > 0.97 for i in items)


def test_regions_are_read_as_a_network_sees_them(files):
    items, _ = whole_slide_items([files / "tissue.tif"], [500, 700], 2.0)  # their majority rounds its four corners
    assert items == [{"image": str(files / "tissue.tif"), "location": [200, 300], "size": [500, 700], "tissue": 0.9991}]
    seen = LoadPyramidd("image", [4.0, 2.0], 32)(items[0])["image"]
    assert seen.geometry.size == (500, 700)
    assert seen.thumbnail((5, 7)) == pytest.approx(np.broadcast_to(np.reshape(PINK, (3, 1, 1)), (3, 5, 7)), abs=2)


def test_the_share_of_tissue_decides(files):
    counts = [
        len(whole_slide_items([files / "tissue.tif"], (800, 900), 2.0, min_tissue=least)[0])
        for least in (0.01, 0.48, 0.49)
    ]
    assert counts == [1, 1, 0]  # 500 * 700 of 800 * 900 pixels: 0.486


def test_regions_stay_inside_a_slide_that_is_narrower_than_they_are(tmp_path):
    path = slide(tmp_path / "narrow.tif", (slice(0, 200), slice(1000, 1300)), size=(200, 1300))
    items, _ = whole_slide_items([path], (400, 400), 2.0)
    assert [(i["location"], i["size"]) for i in items] == [([0, 900], [200, 400])]


def test_what_is_a_region_already_stays_as_it_is(files):
    located = {"image": str(files / "tissue.tif"), "location": [3, 5], "size": [40, 60], "label": 0}
    rest = {"image": str(files / "blank.tif"), "location": [3, 5], "size": [97, 95]}
    flat = {"image": str(files / "flat.png"), "mpp": 2.0}
    small = {"image": str(files / "tissue.tif"), "size": [900, 1300]}
    items, unread = whole_slide_items([located, rest, flat], (100, 100), 2.0)
    assert unread == []
    assert [a is b for a, b in zip(items, [located, rest, flat])] == [True] * 3
    assert whole_slide_items([small], (900, 1300), 2.0) == ([small], [])
    assert whole_slide_items([small], (900, 1299), 2.0)[0][0]["size"] == [900, 1299]


def test_a_slide_of_many_regions_is_inspected_once(files, monkeypatch):
    asked, inspect = [], tissue.inspect_slide
    monkeypatch.setattr(tissue, "inspect_slide", lambda path, mpp: asked.append(path) or inspect(path, mpp=mpp))
    located = [{"image": str(files / "tissue.tif"), "location": [row, 5], "size": [40, 60]} for row in range(9)]
    assert whole_slide_items(located, (400, 400), 2.0) == (located, [])
    assert asked == [str(files / "tissue.tif")]


def test_the_spacing_is_the_items_else_the_files_else_the_default(files):
    def side(name: str, given: float | None, default: float | None) -> list[int]:
        item = {"image": str(files / name), "mpp": given}
        return whole_slide_items([item], (400, 400), 4.0, default_mpp=default)[0][0]["size"]

    assert side("tissue.tif", 2.5, 3.2) == [640, 640]
    assert side("tissue.tif", None, 3.2) == [800, 800]
    assert side("unknown.tif", None, 3.2) == [500, 500]
    assert side("unknown.tif", 4.0, 3.2) == [400, 400]


UNREAD = {
    "missing": ("none.svs", {}, "slide", "none.svs: there is no such file"),
    "folder": (".", {}, "slide", "is a folder"),
    "empty": ("empty.svs", {}, "slide", "empty.svs: the file is empty"),
    "text": ("text.svs", {}, "slide", "text.svs: "),
    "no spacing": ("unknown.tif", {}, "slide", "unknown.tif: the file does not tell its spacing; give 'mpp'"),
    "no spacing of a picture": ("flat.png", {}, "slide", "flat.png: the file does not tell its spacing"),
    "impossible spacing": ("tissue.tif", {"mpp": -1}, "slide", "mpp must be a positive number"),
    "too coarse": ("tissue.tif", {"mpp": 4.0}, "slide", "is finer than the file's 4 um/px (given)"),
    "outside": ("tissue.tif", {"location": [800, 0], "size": [200, 200]}, "slide", "leaves the image of (900, 1300)"),
    "no place": ("tissue.tif", {"location": "top"}, "slide", "'location' must be two whole numbers"),
    "no size": ("tissue.tif", {"location": [3, 5]}, "slide", "'location' (3, 5) is without 'size'"),
    "another size": ("tissue.tif", {"size": [9, 9]}, "slide", "give 'location' if a region is meant"),
    "blank": ("blank.tif", {}, "tissue", "blank.tif: no tissue found: nothing is colored, as on a blank or a gray"),
    "little": ("little.tif", {}, "tissue", "of the slide is tissue, but it makes up 10% of no region of 400 x 400"),
}


@pytest.mark.parametrize(("name", "keys", "stage", "reason"), UNREAD.values(), ids=UNREAD)
def test_what_gives_no_item_is_told_and_the_others_go_on(files, name, keys, stage, reason):
    good = {"image": str(files / "tissue.tif"), "location": [0, 0], "size": [400, 400]}
    wrong = {"image": str(files / name), **keys}
    items, unread = whole_slide_items([wrong, good], (400, 400), 2.0)
    assert items == [good]
    assert [(fault.where, fault.stage) for fault in unread] == [(str(files / name), stage)]
    assert reason in unread[0].reason
    assert "\n" not in unread[0].reason


def test_what_is_no_item_is_told_too():
    items, unread = whole_slide_items([{"label": 1}, 5], (400, 400), 2.0)  # type: ignore[list-item]
    assert items == []
    assert [fault.where for fault in unread] == ["", ""]
    assert all("an item is an object with the path of its 'image'" in u.reason for u in unread)


def test_a_damaged_level_is_told(files, tmp_path):
    path = slide(tmp_path / "damaged.tif", TISSUE)
    start, count = tile_range(path, 1, 0)
    overwrite(path, start, bytes(count))
    items, unread = whole_slide_items([path], (400, 400), 2.0)
    assert items == []
    assert unread[0].stage == "slide"
    assert unread[0].reason.startswith(path)


def test_a_slide_without_small_levels_is_told_the_way_out(files, monkeypatch):
    one_level = 900 * 1300 // 4  # as 100,000 x 100,000 pixels in one level would be
    monkeypatch.setattr("monai_jsma.slides.resample._MAX_PIXELS", one_level - 1)
    assert whole_slide_items([files / "tissue.tif"], (400, 400), 2.0)[1] == [
        Fault(
            str(files / "tissue.tif"),
            "slide",
            f"{files / 'tissue.tif'}: 225 x 325 pixels of this region would be averaged from 2.9e+05 pixels of the "
            "coarsest level that will do; convert the file to a tiled pyramid with coarser levels.",
        )
    ]


@pytest.mark.parametrize(
    ("size", "mpp", "seen"),
    [((64, 640), 2.0, (16, 160)), ((64, 640), 16.0, (64, 640)), ((64, 8000), 8.0, (16, 2000))],
)
def test_tissue_is_looked_for_at_8_um_on_at_most_2000_pixels_a_side(tmp_path, monkeypatch, size, mpp, seen):
    path = slide(tmp_path / "slide.tif", (slice(None), slice(None)), size=size, mpp=mpp)
    shapes = []
    monkeypatch.setattr(tissue, "tissue_mask", lambda p: shapes.append(p.shape) or np.ones(p.shape[:2], bool))
    assert whole_slide_items([path], (32, 32), mpp)[0]
    assert shapes == [(*seen, 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"region_size": (400,)}, "region_size must be two positive numbers"),
        ({"region_size": (400, 0)}, "region_size must be two positive numbers"),
        ({"min_tissue": 0.0}, "min_tissue above 0 and at most 1"),
        ({"min_tissue": 1.1}, "min_tissue above 0 and at most 1"),
        ({"default_mpp": 352.8}, "default_mpp: mpp=352.8 is outside"),
        ({"mpp": "strong"}, "'strong' is no magnification"),
    ],
)
def test_settings_that_cannot_be_meant_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        whole_slide_items([], **{"region_size": (400, 400), "mpp": 2.0, **changes})


def test_a_real_slide_from_a_datalist(tmp_path):
    save_datalist({"test": [{"image": shared_slide("cmu-1-small-region.svs"), "patient": "CMU"}]}, tmp_path / "d.json")
    items, unread = whole_slide_items(load_datalist(tmp_path / "d.json", "test"), (256, 256), 1.0)
    assert unread == []
    assert {i["patient"] for i in items} == {"CMU"}
    load = LoadPyramid([4.0, 2.0, 1.0], 64)
    for item in items:  # darkness, which also sees grey debris, agrees
        seen = load(item["image"], location=item["location"], size=item["size"]).thumbnail((32, 32))
        assert (seen.min(0) < 215).mean() == pytest.approx(item["tissue"], abs=0.25)
