# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The TCGA-PRAD bundle at work: regions are read out of slides, and each has its own line, metrics and picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from bundle_runs import (
    BUNDLES,
    NETWORK,
    SMALL_PATCHES,
    causes,
    command,
    copy_bundle,
    execute,
    items,
    make_slides,
    model,
    predicted,
    rows,
    run,
)
from monai.bundle import ConfigParser
from monai.transforms import Compose
from sklearn.metrics import average_precision_score, roc_auc_score
from slide_files import levels_of, picture, write_pyramid

from monai_jsma.data import PatchGeometry, Pyramid
from monai_jsma.slides.base import Reader

SHIPPED = BUNDLES["tcga_prad"]
MAGNIFICATIONS = ("25X", "50X", "100X")
GRIDS = ((2, 2), (4, 4), (7, 7))


def view() -> Compose:
    """What the bundle makes of an item before the network sees it."""
    parser = ConfigParser(SHIPPED.configs["train"])
    return parser.get_parsed_content("validate#preprocessing")


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> tuple[str, np.ndarray]:
    """A 40x slide, stored at 1, 4 and 16, and its pixels at 100X; level 0 is black: it is never needed."""
    pixels = picture(2112, 2112)
    black = np.zeros((8448, 8448, 3), np.uint8)
    path = tmp_path_factory.mktemp("slide") / "TCGA-XX-0001-01Z-00-DX1.svs"
    levels = [black, *levels_of(pixels, (4,))]
    return write_pyramid(path, levels, tile=(240, 240), compression="zstd", aperio_mpp=0.25), pixels


def test_a_region_of_a_40x_slide_has_the_grids_and_the_pixels_of_the_paper(slide):
    path, pixels = slide
    made = view()({"image": path, "location": [128, 208], "size": [8000, 8000], "label": 1})
    pyramid: Pyramid = made["pyramid"]
    assert (pyramid.mpp, pyramid.mpp_source) == (0.25, "Aperio MPP")
    assert pyramid.geometry.names == MAGNIFICATIONS
    assert pyramid.geometry.level_sizes == ((500, 500), (1000, 1000), (2000, 2000))
    assert pyramid.geometry.grids == GRIDS
    assert made["image"].shape == (3, 299, 299)
    region = pixels[32:2032, 52:2052]
    halves = region.reshape(1000, 2, 1000, 2, 3).astype(int).sum(axis=(1, 3))
    of_level = [region[::4, ::4], (halves + 2) // 4, region]
    for cell in (0, 3, 4, 9, 19, 20, 44, 68):
        level, box = pyramid.geometry.cell(cell).level, pyramid.geometry.level_box(cell)
        expected = of_level[level][box.row : box.row + 299, box.col : box.col + 299]
        np.testing.assert_array_equal(pyramid.read([cell])[0].transpose(1, 2, 0), expected)


def test_a_region_is_read_lazily(slide, monkeypatch):
    read, amounts = Reader.read, []

    def counted(self, level, location, size):
        amounts.append(size[0] * size[1])
        return read(self, level, location, size)

    monkeypatch.setattr(Reader, "read", counted)
    pyramid = view()({"image": slide[0], "location": [128, 208], "size": [8000, 8000]})["pyramid"]
    assert sum(amounts) == 500**2  # the thumbnail, of the level of 4 um per pixel
    pyramid.read([0, 4, 20, 44, 68])
    assert sum(amounts[1:]) == 299**2 + 598**2 + 3 * 299**2


@pytest.mark.parametrize(("mpp", "size"), [(0.25, 8000), (0.2525, 7921), (0.2525, 8000), (0.23, 8000), (0.5, 4000)])
def test_the_grids_hold_for_the_spacings_of_real_slides(mpp, size):
    """Scanners of one objective differ in their spacing; 2000 um are 7 x 7 patches of 299 for all of them."""
    train = SHIPPED.configs["train"]
    magnifications = ConfigParser(train).get_parsed_content("magnifications")
    assert PatchGeometry((size, size), mpp, magnifications, train["patch_size"]).grids == GRIDS


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A bundle after two epochs on 9 regions of 3 slides, with validation on 6 of 2."""
    bundle = copy_bundle(tmp_path_factory.mktemp("trained"), "tcga_prad")
    make_slides(bundle / "data", training=3, validation=2, test=1)
    made = run(bundle, "train", **SMALL_PATCHES)
    pyramids = [made.train_dataset[i]["pyramid"] for i in range(9)]
    assert {p.geometry.grids for p in pyramids} == {((1, 1), (2, 2), (4, 4))}
    assert {(p.mpp, p.mpp_source) for p in pyramids} == {(0.25, "Aperio MPP")}
    assert len({(p.path, p.origin) for p in pyramids}) == 9
    assert model(bundle)["classifier.weight"].shape == (3, 16)
    return bundle


@pytest.fixture(scope="module")
def evaluated(trained) -> Path:
    """The same after evaluation, by the command line, which writes to ``eval``."""
    arguments = command("evaluating", "train", "evaluate", **NETWORK, **SMALL_PATCHES, num_workers=1)
    code, written = execute(arguments, trained)
    assert code == 0, written[-3000:]
    return trained


def line(item: dict) -> str:
    """What an item is called in a table."""
    return ":".join(map(str, [f"data/{item['image']}", *item["location"], *item["size"]]))


def test_regions_of_a_slide_have_a_line_each(evaluated):
    truth = items(evaluated, "validation")
    table = predicted(evaluated / "eval")
    assert [name.removeprefix("./") for name in table] == [line(item) for item in truth]
    assert len({item["image"] for item in truth}) == 2
    prob = np.array(list(table.values()))
    assert prob.shape == (6, 3)
    np.testing.assert_allclose(prob.sum(axis=1), 1, atol=1e-6)


def test_the_metrics_are_those_of_the_papers_table(evaluated):
    label = np.array([item["label"] for item in items(evaluated, "validation")])
    prob = np.array(list(predicted(evaluated / "eval").values()))
    metrics = {name: value for name, (value,) in rows(evaluated / "eval" / "metrics.csv").items()}
    one_hot = np.eye(3)[label]
    assert metrics["val_accuracy"] == pytest.approx((prob.argmax(axis=1) == label).mean())
    assert metrics["val_auc_roc"] == pytest.approx(roc_auc_score(one_hot, prob, average="micro"))
    precision = average_precision_score(one_hot, prob, average="micro")
    assert metrics["val_average_precision"] == pytest.approx(precision)
    assert sum(metrics[f"attention_share_{name}"] for name in MAGNIFICATIONS) == pytest.approx(1)


def test_each_region_is_drawn(evaluated):
    stems = {path.stem.rsplit("_", 1)[0] for path in (evaluated / "eval" / "attention").glob("*.png")}
    places = [(Path(item["image"]).stem, *item["location"]) for item in items(evaluated, "validation")]
    assert stems == {f"{stem}_r{row}_c{col}" for stem, row, col in places}


def test_inference_predicts_what_evaluation_did(evaluated):
    run(evaluated, "inference", workflow_type="infer", test_list="validation", **SMALL_PATCHES)
    found, expected = (predicted(evaluated / name) for name in ("predictions", "eval"))
    assert [name.split("slides/")[1] for name in found] == [name.split("slides/")[1] for name in expected]
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-6)


def test_inference_on_any_region(evaluated):
    """As the card says: a slide, and a place in it."""
    path = str(evaluated / "data" / items(evaluated, "test")[0]["image"])
    data = [{"image": path, "location": [row, 20], "size": [500, 512]} for row in (0, 100)]
    output = str(evaluated / "any")
    run(evaluated, "inference", workflow_type="infer", data=data, output_dir=output, **SMALL_PATCHES)
    assert list(predicted(evaluated / "any")) == [f"{path}:{row}:20:500:512" for row in (0, 100)]


def test_a_slide_of_unknown_spacing_is_an_error_unless_one_is_given(tmp_path):
    bundle = copy_bundle(tmp_path, "tcga_prad")
    make_slides(bundle / "data", training=1, validation=1)
    item = items(bundle, "training")[0]
    path = bundle / "data" / item["image"]
    write_pyramid(path, levels_of(picture(600, 1700), (4,)), compression="jpeg", aperio_mpp=0)
    with pytest.raises(RuntimeError) as raised:
        run(bundle, "train", **SMALL_PATCHES)
    assert any(f"{path.name}: the file does not tell its spacing; give 'mpp'" in str(e) for e in causes(raised.value))
    made = run(bundle, "train", default_mpp=0.25, epochs=1, **SMALL_PATCHES)
    pyramid = made.train_dataset[0]["pyramid"]
    assert (pyramid.mpp, pyramid.mpp_source) == (0.25, "default")


def test_the_datalist_of_the_card(slide):
    """What the card shows has the labels' order, and its region the grids of the paper."""
    content = json.loads(re.search(r"^```json\n(.*?)^```$", SHIPPED.card, re.DOTALL | re.MULTILINE)[1])
    assert content["labels"] == {str(i): name for i, name in enumerate(SHIPPED.classes)}
    (item,) = content["training"]
    assert item["size"] == [8000, 8000]
    assert item["patient"] == Path(item["image"]).name[:12]
    assert view()(item | {"image": slide[0], "location": [0, 0]})["pyramid"].geometry.grids == GRIDS
