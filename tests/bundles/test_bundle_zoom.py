# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Both bundles on whole slides: training by stages, evaluation, inference and a start from a training on regions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from bundle_runs import SMALL_BACKBONE, TINY, command, copy_bundle, execute, model, predicted, run
from slide_files import levels_of, write_pyramid

from monai_jsma.data import save_datalist
from monai_jsma.networks import LeaveOneOut, Pathwise, ZoomNet
from monai_jsma.predictions import read_records

CLASSES = {"bach": 4, "tcga_prad": 3}
SMALL = {
    "mpp": 1.0,
    "magnifications": [2.0, 1.0],
    "patch_size": 32,
    "thumbnail_size": [64, 64],
    "region_thumbnail_size": [32, 32],
    "zoom_region_size": 64,
    "slide_backbone": SMALL_BACKBONE,
    "num_patches": 4,
    "inference_patches": 4,
    "region_epochs": 1,
    "zoom_epochs": 1,
    "epochs": 3,
}


def make_whole_slides(folder, classes: int) -> None:
    """Slides of white glass with a piece of tissue, of which the color tells the class."""
    content = {"labels": {str(i): f"class {i}" for i in range(classes)}, "training": [], "validation": [], "test": []}
    (folder / "slides").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("training", 2), ("validation", 1), ("test", 1)):
        for i in range(count * classes):
            label = i % classes
            height, width = generator.integers(200, 400, 2)
            pixels = np.full((height, width, 3), 245, np.uint8)
            tissue = generator.integers(60, 120, (height // 2, width // 2, 3))
            tissue[..., label % 3] += 60 + 20 * (label // 3)
            pixels[20 : 20 + height // 2, 40 : 40 + width // 2] = tissue
            image = f"slides/{part}-{i}.tif"
            write_pyramid(folder / image, levels_of(pixels, (2, 4)), tile=(64, 64), compression="zlib", mpp=1.0)
            content[part].append({"image": image, "label": label, "patient": f"{part}-{i}"})
    save_datalist(content, folder / "datalist.json")


@pytest.mark.parametrize("name", CLASSES)
def test_trains_evaluates_and_infers_on_whole_slides(name, tmp_path):
    bundle = copy_bundle(tmp_path, name)
    make_whole_slides(bundle / "data", CLASSES[name])
    made = run(bundle, "train", "zoom", **SMALL)
    network = made.network_def
    assert isinstance(network, ZoomNet)
    assert network.sampler == LeaveOneOut(4)
    assert not network.zooms_by_prior
    assert made.train_dataset[0]["pyramid"].tissue is not None
    assert network.class_names == [f"class {i}" for i in range(CLASSES[name])]

    run(bundle, "train", "zoom", "evaluate", **SMALL, max_pictures=1)
    options = {"test_list": "validation", "max_pictures": 1, "region_size": [64, 64]}  # slides are not cut into these
    run(bundle, "inference", "zoom", workflow_type="infer", **SMALL, **options)
    assert len(list((bundle / "predictions" / "attention").glob("*.png"))) == 1
    evaluated = predicted(bundle / "eval")
    inferred = predicted(bundle / "predictions")
    assert evaluated.keys() == inferred.keys()
    np.testing.assert_allclose(list(evaluated.values()), list(inferred.values()), atol=1e-6)
    records = read_records(bundle / "predictions" / "predictions.jsonl")
    assert len(records) == CLASSES[name]
    for record in records:
        assert 1 <= record.patches_read == len(record.inner_patches) <= 4
        assert 1 <= record.regions_looked_at <= 4
        assert record.location == (0, 0)
        assert record.run["settings"]["sampler"] == repr(Pathwise(4, estimator="systematic", max_regions=10))


def test_a_model_of_regions_is_the_start(tmp_path):
    bundle = copy_bundle(tmp_path)
    make_whole_slides(bundle / "data", 4)
    content = json.loads((bundle / "data" / "datalist.json").read_text())
    for part in ("training", "validation"):
        for item in content[part]:
            item |= {"location": [20, 40], "size": [64, 64]}
    save_datalist(content, bundle / "data" / "regions.json")
    of_regions = {key: SMALL[key] for key in ("mpp", "magnifications", "patch_size", "num_patches")}
    run(
        bundle,
        "train",
        **of_regions,
        thumbnail_size=[32, 32],
        epochs=1,
        data_list_file_path=str(bundle / "data" / "regions.json"),
    )
    trained = model(bundle)
    (bundle / "models" / "model.pt").rename(bundle / "models" / "regions.pt")

    settings = {**SMALL, "region_epochs": 0, "zoom_epochs": 1, "epochs": 1, "freeze_norm": True}
    made = run(bundle, "train", "zoom", **settings, region_weights=str(bundle / "models" / "regions.pt"))
    region = made.network_def.region_network.state_dict()
    for name, value in trained.items():
        if name != "trained_with":
            torch.testing.assert_close(region[name].cpu(), value, msg=name)
    slide = made.network_def.stages[0].encoder.state_dict()
    for name in slide:  # it has the layers of h, and may learn from there
        assert slide[name].shape == trained[f"thumbnail_encoder.{name}"].shape
    frozen = {**settings, "freeze_thumbnail_backbone": True}
    made = run(bundle, "train", "zoom", **frozen, region_weights=str(bundle / "models" / "regions.pt"))
    for name, value in made.network_def.stages[0].encoder.state_dict().items():
        torch.testing.assert_close(value.cpu(), trained[f"thumbnail_encoder.{name}"], msg=name)


def test_a_start_by_stages_of_one_stage_is_refused(tmp_path):
    bundle = copy_bundle(tmp_path)
    make_whole_slides(bundle / "data", 4)
    with pytest.raises(RuntimeError) as raised:
        run(bundle, "train", region_epochs=1, **{k: SMALL[k] for k in ("mpp", "magnifications", "patch_size")})
    texts = []
    error = raised.value
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    assert any("is JSMANet: it has one stage only" in text for text in texts)


def test_two_processes_train_and_one_goes_on(tmp_path):
    """In the start by stages each process has parts without a gradient; nothing waits for another."""
    bundle = copy_bundle(tmp_path)
    make_whole_slides(bundle / "data", 4)
    options = {**TINY, **SMALL, "batch_size": 2, "epochs": 2}
    code, written = execute(
        command("training", "train", "../../variants/zoom", "multi_gpu_train", processes=2, **options),
        bundle,
        timeout=400,
    )
    assert code == 0, written[-4000:]
    before = model(bundle, "checkpoint.pt")
    assert before["trainer"]["iteration"] == 4  # 8 slides in batches of 2 in 2 processes
    assert not [name for name in before["model"] if name.startswith("module.")]
    made = run(bundle, "train", "zoom", **{**SMALL, "batch_size": 4, "epochs": 3}, resume=True)
    after = model(bundle, "checkpoint.pt")
    assert after["trainer"]["iteration"] == 6
    assert not made.network_def.zooms_by_prior
    moved = {name for name, value in before["model"].items() if not torch.equal(value, after["model"][name])}
    assert {"stages.0.attention.logits.0.weight", "region_network.classifier.weight"} <= moved
