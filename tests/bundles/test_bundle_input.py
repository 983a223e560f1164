# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The BACH bundle on what users bring: real pictures and slides, and input that is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import SHARED, causes, copy_bundle, items, make_pictures, model, predicted, run, workflow

from monai_jsma.__main__ import main
from monai_jsma.data import Box, Pyramid
from monai_jsma.transforms import LoadPyramid

OSTEOSARCOMA, SLIDES = SHARED / "osteosarcoma", SHARED / "slides"
CMU, TCGA, KIDNEY = "cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs", "kidney-48-5.tif"


@pytest.mark.skipif(not OSTEOSARCOMA.is_dir(), reason="the osteosarcoma pictures are not beside the repository")
@pytest.mark.parametrize("told", ["by prepare", "to the bundle"])
def test_osteosarcoma(tmp_path, capsys, told):
    """A folder with a table of labels becomes a datalist; the bundle is told that, the spacing and the classes."""
    path = tmp_path / "datalist.json"
    known = ["--mpp", "1.0"] if told == "by prepare" else []
    assert main(["prepare", "folder", str(OSTEOSARCOMA), "--folds", "4", "--out", str(path), *known]) == 0
    content = json.loads(path.read_text())
    assert ("mpp" in content) == (told == "by prepare")
    sides = [{item["group"] for item in content[side]} for side in ("training", "validation", "test")]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides))
    bundle = copy_bundle(tmp_path)
    given = {"data_list_file_path": str(path), "dataset_dir": str(OSTEOSARCOMA), "mpp": 1.0, "num_classes": 3}
    made = run(bundle, "train", epochs=1, thumbnail_size=[64, 64], patch_size=64, **given)
    assert model(bundle)["classifier.weight"].shape == (3, 16)
    (pyramid,) = {item["pyramid"].mpp: item["pyramid"] for item in made.train_dataset}.values()
    assert pyramid.geometry.names == ("25X", "50X", "100X")
    assert pyramid.geometry.grids == ((4, 4), (8, 8), (16, 16))
    assert made.trainer.state.iteration == -(-len(content["training"]) // 4)


@pytest.mark.skipif(not SLIDES.is_dir(), reason="the slides are not beside the repository")
def test_regions_of_slides(tmp_path):
    """Regions of one slide, of one whose spacing only the datalist knows, and of a flat picture, in one batch."""
    region = {"location": [300, 200], "size": [1000, 900]}
    content = {
        "training": [
            {"image": CMU, "label": 0, "patient": "a", "location": [0, 0], "size": [1000, 1000]},
            {"image": CMU, "label": 1, "patient": "a", **region},
            {"image": TCGA, "label": 1, "patient": "b", "mpp": 0.5, **region},
            {"image": TCGA, "label": 0, "patient": "b", "mpp": 0.25},
        ],
        "validation": [{"image": KIDNEY, "label": i, "patient": "c", "size": [400 + i, 400]} for i in range(2)],
    }
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps(content))
    bundle = copy_bundle(tmp_path)
    given = {"data_list_file_path": str(path), "dataset_dir": str(SLIDES), "mpp": 0.5, "num_classes": 2}
    small = {"thumbnail_size": [48, 64], "patch_size": 64, "orientation_prob": 0.0, "num_workers": 1}
    made = run(bundle, "train", **given, **small)
    pyramids: list[Pyramid] = [made.train_dataset[i]["pyramid"] for i in range(4)]
    told = [(0.499, "Aperio MPP"), (0.499, "Aperio MPP"), (0.5, "given"), (0.25, "given")]
    assert [(p.mpp, p.mpp_source) for p in pyramids] == told
    assert pyramids[1].origin == pyramids[2].origin == (300, 200)
    assert pyramids[2].box(0) == Box(300, 200, 256, 256)  # 64 pixels at 50X
    run(bundle, "train", "evaluate", **given, **small)
    table = predicted(bundle / "eval")
    assert list(table) == [f"{SLIDES / KIDNEY}:0:0:{height}:400" for height in (400, 401)]


def test_a_spacing_is_the_items_else_the_datalists_else_the_files_else_the_bundles(tmp_path):
    bundle = copy_bundle(tmp_path)
    path = make_pictures(bundle / "data", 2, 1, 1)  # 0.5 um per pixel at the top of the datalist
    content = json.loads(path.read_text())
    content["training"][1]["mpp"] = 0.25
    path.write_text(json.dumps(content))
    pyramids = [item["pyramid"] for item in workflow(bundle, "train", "demo", mpp=0.52).train_dataset]
    assert [p.mpp for p in pyramids] == [0.5, 0.25]
    assert pyramids[0].geometry.magnifications[-1].mpp == 0.52
    del content["mpp"]
    path.write_text(json.dumps(content))
    pyramids = [item["pyramid"] for item in workflow(bundle, "train", "demo", mpp=0.52).train_dataset]
    assert [(p.mpp, p.mpp_source) for p in pyramids] == [(0.52, "default"), (0.25, "given")]
    with pytest.raises(ValueError, match=r"default_mpp: mpp=500.0? is outside"):
        LoadPyramid((1000.0,), default_mpp=500.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Pictures and their datalist."""
    folder = tmp_path_factory.mktemp("pictures") / "data"
    make_pictures(folder, 4, 2, 1)
    return folder


@pytest.fixture
def bundle(tmp_path, pictures) -> Path:
    """A bundle with these pictures to spoil."""
    copy = copy_bundle(tmp_path)
    shutil.copytree(pictures, copy / "data")
    return copy


def change(bundle: Path, **changes: Any) -> None:
    """Change the datalist: ``label=9`` its first training item, ``training=[]`` a whole side, None removes."""
    path = bundle / "data" / "datalist.json"
    content = json.loads(path.read_text())
    for key, value in changes.items():
        target = content if key in content else content["training"][0]
        if value is None:
            del target[key]
        else:
            target[key] = value
    path.write_text(json.dumps(content))


UNKNOWN = {"magnifications": ["50X", "100X", "200X"], "mpp": None}
WRONG = {
    "no datalist": ({}, {"data_list_file_path": "none.json"}, "none.json: there is no such datalist."),
    "no folder": ({}, {"dataset_dir": "none"}, "none/datalist.json: there is no such datalist."),
    "empty": ({"training": []}, {}, "datalist.json: no items under 'training'; it has ['validation', 'test']."),
    "no picture": ({"image": "none.png"}, {}, "1 of 4 images under 'training' are missing: "),
    "label": ({"label": 4}, {}, "training[0]: the label must be a whole number from 0 below num_classes=4, but is 4."),
    "no label": ({"label": None}, {}, "the label must be a whole number from 0 below num_classes=4, but is None."),
    "no mpp": ({"mpp": None}, UNKNOWN, "the file does not tell its spacing; give 'mpp' (um/px of level 0) in the da"),
    "too fine": ({}, {"mpp": 0.25}, "400X (0.25 um/px) is finer than the file's 0.5 um/px (given); choose coarser mag"),
    "no backbone": ({}, {"thumbnail_backbone": "resnet19"}, "unknown backbone 'resnet19': timm has no model of that n"),
    "no weights": ({}, {"weights": "none.pth", "thumbnail_backbone": "resnet18"}, "weights 'none.pth': no such file;"),
    "sampler": (
        {},
        {"num_patches": 1},
        "k of LeaveOneOut must be a whole number of at least 2, but is 1; AllPatches() ",
    ),
    "not a number": (
        {},
        {"lr": 1e30, "batch_size": 2},
        "its attention is NaN or infinite; if the network is being trained, lower 'lr'",
    ),
}


@pytest.mark.parametrize(("changes", "overrides", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_named_in_one_clear_error(bundle, changes, overrides, message):
    change(bundle, **changes)
    with pytest.raises(RuntimeError) as raised:
        run(bundle, "train", "demo", **overrides)
    told = [str(error) for error in causes(raised.value) if message in str(error)]
    assert told, list(causes(raised.value))
    assert not any("\n" in text for text in told[-1:])
    assert not (bundle / "models" / "checkpoint.pt").exists()


def test_a_worker_tells_the_same(bundle):
    change(bundle, mpp=None)
    with pytest.raises(RuntimeError) as raised:
        run(bundle, "train", "demo", cache_rate=0.0, num_workers=1, **UNKNOWN)
    assert any("the file does not tell its spacing; give 'mpp'" in str(error) for error in causes(raised.value))


def test_a_loss_that_is_no_number_keeps_what_there_was(bundle):
    run(bundle, "train", "demo", epochs=1)
    before = model(bundle, "checkpoint.pt")
    with pytest.raises(RuntimeError) as raised:
        run(bundle, "train", "demo", epochs=3, resume=True, alpha=1e38, regularizer="entropy")
    names = [Path(item["image"]).name for item in items(bundle, "training")]
    cause = next(str(error) for error in causes(raised.value) if "in epoch 2, iteration 2" in str(error))
    assert all(name in cause for name in names)
    after = model(bundle, "checkpoint.pt")
    assert all(torch.equal(value, after["model"][key]) for key, value in before["model"].items())
