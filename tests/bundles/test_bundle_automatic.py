# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Both bundles with magnifications chosen by rule: any number of them trains, predicts, and is drawn and reported."""

from __future__ import annotations

import csv
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, NETWORK, causes, copy_bundle, make_pictures, make_slides, rows, run
from monai.bundle import ConfigParser
from PIL import Image
from slide_files import levels_of, picture, write_pyramid

from monai_jsma.__main__ import main
from monai_jsma.data import PatchGeometry, automatic_magnifications
from monai_jsma.predictions.records import read_records

AUTO = "auto_magnifications"
# For pictures of 256 x 256 pixels: the number of levels, and the settings that give it. The last are for larger ones.
LEVELS = {
    1: {"patch_size": 256, "picture_size": [256, 256]},
    2: {"patch_size": 128, "picture_size": [256, 256]},
    5: {"patch_size": 16, "picture_size": [256, 256]},
    7: {"patch_size": 8, "picture_size": [512, 512]},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    copy = copy_bundle(tmp_path_factory.mktemp("bundle"))
    make_pictures(copy / "data", 4, 2, 1)
    return copy


@pytest.mark.parametrize(("name", "patch"), [("bach", 299), ("bach", 256), ("tcga_prad", 299), ("tcga_prad", 256)])
@pytest.mark.parametrize("base", ["train", "inference"])
def test_the_overlay_chooses_for_the_pictures_of_its_bundle(name, patch, base):
    """Which are those of the paper and one before them; the network and the files are asked for the same."""
    shipped = BUNDLES[name]
    parser = ConfigParser(deepcopy({**shipped.configs[base], **shipped.configs[AUTO], "patch_size": patch}))
    found = parser.get_parsed_content("magnifications")
    mpp = shipped.configs[base]["mpp"]
    assert found == (8 * mpp, 4 * mpp, 2 * mpp, mpp)
    assert parser["picture_size"] == shipped.size
    if patch == 299:
        assert list(found[1:]) == ConfigParser(deepcopy(shipped.configs[base])).get_parsed_content("magnifications")
    for part in ("network_def", ("train#" if base == "train" else "") + "deterministic_transforms#0"):
        assert parser.get_parsed_content(part, instantiate=False).get_config()["magnifications"] == found


@pytest.mark.parametrize(("levels", "settings"), LEVELS.items())
def test_any_number_of_magnifications(bundle, levels, settings, capsys):
    spacings = automatic_magnifications(settings["picture_size"], 0.5, settings["patch_size"])
    geometry = PatchGeometry((256, 256), 0.5, spacings, settings["patch_size"])
    assert len(spacings) == levels
    out = bundle / str(levels)
    folders = {"ckpt_dir": str(out), "output_dir": str(out / "eval"), "log_dir": str(out / "runs")}
    options: dict[str, Any] = {**settings, **folders}
    run(bundle, "train", "demo", AUTO, **options, epochs=1, max_pictures=1)
    assert torch.load(out / "model.pt", weights_only=True)["spacings"].tolist() == list(spacings)
    run(bundle, "train", "demo", AUTO, "evaluate", **options)
    records = read_records(out / "eval" / "predictions.jsonl")
    assert [record.magnifications for record in records] == [spacings] * 2
    assert {len(record.attention) for record in records} == {geometry.num_cells}
    assert all(list(record.shares) == list(geometry.names) for record in records)
    metrics = rows(out / "eval" / "metrics.csv")
    shares = [metrics[f"attention_share_{name}"][0] for name in geometry.names]
    assert shares == pytest.approx(np.mean([list(r.shares.values()) for r in records], axis=0).tolist())
    assert sum(shares) == pytest.approx(1)
    with open(out / "eval" / "predictions.csv", newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    assert [c for c in columns if c.startswith("share_")] == [f"share_{name}" for name in geometry.names]

    saved = str(out / "eval" / "predictions.jsonl")
    assert main(["draw", saved, "--output", str(out / "drawn")]) == 0
    assert main(["report", saved, "--output", str(out / "report")]) == 0
    drawn = list((out / "drawn").glob("*.png"))
    assert len(drawn) == 2
    for path in drawn:
        with Image.open(path) as image:
            assert min(image.size) > 500
    page = (out / "report" / "report.html").read_text()
    assert all(name in page for name in geometry.names)


def test_weights_of_other_magnifications_are_refused(bundle):
    """A picture size that was forgotten is told, by evaluation, inference and a training that goes on."""
    options = {**LEVELS[5], "ckpt_dir": str(bundle / "refused"), "max_pictures": 0}
    run(bundle, "train", "demo", AUTO, **options, epochs=1)
    forgotten = {**options, "picture_size": [512, 512], "output_dir": str(bundle / "refused")}
    for configs, more in (
        (("train", "demo", AUTO, "evaluate"), {}),
        (("inference", "demo", AUTO), {"workflow_type": "infer"}),
        (("train", "demo", AUTO), {"resume": True}),
    ):
        with pytest.raises(RuntimeError) as raised:
            run(bundle, *configs, **forgotten, **more)
        told = [str(error) for error in causes(raised.value)]
        assert any(
            "trained with magnifications of 8, 4, 2, 1, 0.5 um per pixel, but the network has 16" in t for t in told
        )


@pytest.fixture(scope="module")
def grading(tmp_path_factory) -> Path:
    """A bundle of TCGA-PRAD, with a slide of tissue on glass."""
    bundle = copy_bundle(tmp_path_factory.mktemp("grading"), "tcga_prad")
    make_slides(bundle / "data", training=1, validation=1)
    glass = np.full((1024, 1536, 3), 244, np.uint8)
    glass[256:768, 512:1024] = picture(512, 512) // 2 + np.array([110, 40, 100], np.uint8)
    write_pyramid(bundle / "data" / "tissue.svs", levels_of(glass, (4,)), compression="jpeg", aperio_mpp=0.25)
    return bundle


@pytest.mark.parametrize("aligned", [False, True])
def test_slides_in_regions_of_any_size_until_certain(grading, aligned):
    """Regions as large as those of the training, smaller and larger ones: 5 magnifications, whatever they need."""
    settings = {"patch_size": 8, "picture_size": [128, 128], "aligned": aligned, "feature_norm": "l2"}
    settings |= {"thumbnail_size": [32, 32], "ckpt_dir": str(grading / f"models_{aligned}")}
    run(grading, "train", AUTO, **settings, epochs=1)
    spacings = (16.0, 8.0, 4.0, 2.0, 1.0)
    data = [{"image": str(grading / "data" / "tissue.svs")}]
    for size, pixels in (([128, 128], (512, 512)), ([60, 70], (240, 280)), (None, (1024, 1536))):
        out = grading / f"out_{aligned}_{pixels[0]}"
        certified = "$monai_jsma.networks.Certified(max_patches=6)"
        options = {"region_size": size, "output_dir": str(out), "inference_sampler": certified}
        run(grading, "inference", AUTO, workflow_type="infer", data=data, **{**settings, **NETWORK, **options})
        records = read_records(out / "predictions.jsonl")
        grids = PatchGeometry(pixels, 0.25, spacings, 8).grids
        for record in records:
            assert (record.magnifications, record.size, record.aligned) == (spacings, pixels, aligned)
            assert record.geometry.grids == grids
            assert record.certified is not None
            assert record.patches_read <= 6
            assert len(record.cells) == record.patches_read
