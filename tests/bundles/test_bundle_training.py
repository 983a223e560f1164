# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The BACH bundle at work: a tiny training is evaluated, asked, loaded and repeated; its pictures are PNG and TIFF."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_runs import (
    BUNDLE,
    NETWORK,
    VARIANTS,
    command,
    copy_bundle,
    execute,
    items,
    make_pictures,
    model,
    predicted,
    rows,
    run,
    settings,
    workflow,
)
from monai.bundle import load
from monai.bundle import run as run_bundle
from monai.utils import set_determinism
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator
from torch import nn

from monai_jsma.cli.bundles import find_configs
from monai_jsma.data import PyramidBatch
from monai_jsma.networks import AllPatches

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")  # MONAI asks whether one trusts it

MAGNIFICATIONS = ("50X", "100X", "200X")
DEMO = json.loads((VARIANTS / "demo.json").read_text())
NETWORK_DEF = json.loads((BUNDLE / "configs" / "train.json").read_text())["network_def"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A bundle after two epochs on 8 pictures, with validation on 6."""
    bundle = copy_bundle(tmp_path_factory.mktemp("trained"))
    make_pictures(bundle / "data", 8, 6, 5)
    run(bundle, "train", "demo", max_pictures=1)
    return bundle


@pytest.fixture(scope="module")
def evaluated(trained) -> Path:
    """The same after evaluation, by the command line, which writes to ``eval``."""
    arguments = command("evaluating", "train", "demo", "evaluate", **NETWORK)
    code, written = execute(arguments, trained)
    assert code == 0, written[-3000:]
    assert "val_accuracy" in written
    assert "reader=" not in written  # a line for every picture
    return trained


def test_the_model_is_a_plain_state_dict(trained):
    network = workflow(trained, "train", "demo").network_def
    state = model(trained)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert sorted(p.name for p in (trained / "models").iterdir()) == ["checkpoint.pt", "model.pt", "patches.csv"]


def test_what_tensorboard_shows(trained):
    events = EventAccumulator(str(trained / "runs"), size_guidance={SCALARS: 0, IMAGES: 0}).Reload()
    shares = {f"attention_share/{name}" for name in MAGNIFICATIONS}
    enrichments = {f"attention_enrichment/{name}" for name in MAGNIFICATIONS}
    others = {"loss/train", "loss/val", "accuracy/train", "accuracy/val", "patches_read"}
    assert set(events.Tags()["scalars"]) == shares | enrichments | others
    for name in others:
        assert [event.step for event in events.Scalars(name)] == [1, 2], "one axis"
    for step in range(2):
        assert sum(events.Scalars(name)[step].value for name in shares) == pytest.approx(1)
    (tag,) = events.Tags()["images"]
    assert tag.removeprefix("attention/") in {Path(item["image"]).name for item in items(trained, "validation")}
    assert [image.step for image in events.Images(tag)] == [1, 2]


def test_evaluation_writes_a_line_a_picture(evaluated):
    truth = items(evaluated, "validation")
    table = predicted(evaluated / "eval")
    assert [Path(name) for name in table] == [Path("data") / item["image"] for item in truth]
    prob = np.array(list(table.values()))
    assert prob.shape == (6, 4)
    np.testing.assert_allclose(prob.sum(axis=1), 1, atol=1e-6)
    label = np.array([item["label"] for item in truth])
    metrics = rows(evaluated / "eval" / "metrics.csv")
    assert metrics["val_accuracy"] == [pytest.approx((prob.argmax(axis=1) == label).mean())]
    assert metrics["val_loss"] == [pytest.approx(-np.log(prob[range(6), label]).mean(), rel=1e-5)]
    assert sum(metrics[f"attention_share_{name}"][0] for name in MAGNIFICATIONS) == pytest.approx(1)


def test_evaluation_draws_each_picture(evaluated):
    stems = {path.stem.rsplit("_", 1)[0] for path in (evaluated / "eval" / "attention").glob("*.png")}
    assert stems == {Path(item["image"]).stem for item in items(evaluated, "validation")}


def test_evaluation_is_of_the_best_model(evaluated):
    best = max(rows(evaluated / "eval" / "metrics.csv")["val_accuracy"])
    events = EventAccumulator(str(evaluated / "runs")).Reload()
    assert best == pytest.approx(max(event.value for event in events.Scalars("accuracy/val")))


def test_inference_predicts_what_evaluation_did(evaluated):
    options = {"test_list": "validation", "workflow_type": "infer", "max_pictures": 1}
    code, written = execute(command("evaluating", "inference", "demo", **NETWORK, **options), evaluated)
    assert code == 0, written[-3000:]
    assert predicted(evaluated / "predictions") == predicted(evaluated / "eval")
    assert len(list((evaluated / "predictions" / "attention").glob("*.png"))) == 1


def test_inference_on_any_file(evaluated):
    """As the card says, files of which nothing is known but the path; by plain ``run``."""
    names = [str(evaluated / "data" / item["image"]) for item in items(evaluated, "test")]
    names.append(shutil.copy(names[0], str(evaluated / 'Case 7, "B".tif')))
    data = [{"image": name} for name in names]
    run(evaluated, "inference", "demo", workflow_type="infer", data=data, output_dir=str(evaluated / "any"))
    assert list(predicted(evaluated / "any")) == names


def test_plain_run_is_training_and_evaluating(trained, tmp_path):
    files = [str(trained / file) for file in find_configs(trained, "train", "demo", "evaluate")]
    dirs = {"ckpt_dir": str(tmp_path), "output_dir": str(tmp_path), "log_dir": str(tmp_path), "logging_file": False}
    run_bundle(config_file=files[:2], **settings(trained, epochs=1), **dirs)
    assert (tmp_path / "model.pt").is_file()
    run_bundle(config_file=files, **settings(trained), **dirs)
    assert len(predicted(tmp_path)) == 6


def test_the_loaded_bundle_predicts_what_evaluation_did(evaluated, monkeypatch):
    monkeypatch.chdir(evaluated)
    override = {key: value for key, value in (DEMO | NETWORK).items() if key in NETWORK_DEF}
    encoder = {
        "_target_": "monai_jsma.networks.PatchEncoder",
        "backbone": NETWORK["patch_backbone"],
        "feature_norm": "l2",
    }
    override |= {"thumbnail_encoder": NETWORK["thumbnail_backbone"], "patch_encoder": encoder}
    override |= {"sampler": {"_target_": "monai_jsma.networks.LeaveOneOut", "k": NETWORK["num_patches"]}}
    network = load("bach", bundle_dir=evaluated.parent, net_override=override | {"magnifications": MAGNIFICATIONS})
    network.eval()
    table = predicted(evaluated / "eval")
    dataset = workflow(evaluated, "train", "demo").parser.get_parsed_content("validate#dataset")
    pyramids = [item["pyramid"] for item in dataset]
    assert [Path(p.path).relative_to(evaluated) for p in pyramids] == [Path(name) for name in table]
    for pyramid, expected in zip(pyramids, table.values()):
        thumbnail = torch.from_numpy(pyramid.thumbnail(network.thumbnail_size))[None]
        with torch.no_grad():
            prob = network(thumbnail, PyramidBatch([pyramid])).softmax(dim=1)[0]
            np.testing.assert_allclose(prob, expected, atol=1e-6)
            every_patch = network(thumbnail, PyramidBatch([pyramid]), sampler=AllPatches()).softmax(dim=1)
            whole = torch.from_numpy(pyramid.reader.read(0, (0, 0), (256, 256)).transpose(2, 0, 1).copy())[None]
            # Of a whole picture the thumbnail is not rounded to uint8.
            torch.testing.assert_close(network(whole, sampler=AllPatches()).softmax(1), every_patch, atol=1e-3, rtol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_makes_the_model(trained, tmp_path, workers):
    """Not equal for different numbers of workers: each worker draws orientations, stains and crops of its own."""
    states = []
    for i, seed in enumerate((3, 3, 4)):
        folder = tmp_path / str(i)
        dirs = {"ckpt_dir": str(folder), "log_dir": str(folder)}
        run(trained, "train", "demo", seed=seed, num_workers=workers, stain_prob=0.5, crop_prob=0.5, **dirs)
        states.append(torch.load(folder / "checkpoint.pt", weights_only=True)["model"])
    set_determinism(None)
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])


class SixOfTen(nn.Module):
    """Sees ten pictures, one after another, and is right on the first six."""

    def __init__(self, labels: list[int]) -> None:
        super().__init__()
        self.answers = iter([label if i < 6 else (label + 1) % 4 for i, label in enumerate(labels)])
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, image, pyramid, return_attention, sampler=None):
        answers = torch.tensor([next(self.answers) for _ in pyramid])
        attention = torch.stack([torch.full((p.geometry.num_cells,), 1 / p.geometry.num_cells) for p in pyramid])
        cells = torch.zeros(len(pyramid), 1, dtype=torch.long)
        logits = nn.functional.one_hot(answers, 4) * self.scale
        log = {"log_attention": attention.log(), "log_prior": attention.log()}
        maps = {"attention": attention, **log, "cells": cells, "weights": cells + 1.0}
        return {"logits": logits, **maps}


@pytest.mark.parametrize("side", ["validate#evaluator", "train#trainer"])
def test_six_of_ten_are_60_percent(tmp_path, caplog, side):
    bundle = copy_bundle(tmp_path)
    make_pictures(bundle / "data", 10, 10, 1)
    in_order = {"balanced": False, "train#dataloader#shuffle": False}
    made = workflow(bundle, "train", "demo", epochs=1, val_interval=9, **in_order)
    engine = made.parser.get_parsed_content(side)
    engine.network = SixOfTen([item["label"] for item in items(bundle, "training")])
    log = logging.getLogger("monai.handlers.StatsHandler")  # it may not propagate what it writes
    log.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        engine.run()
    log.removeHandler(caplog.handler)
    name = {"validate#evaluator": "val_accuracy", "train#trainer": "train_accuracy"}[side]
    assert engine.state.metrics[name] == pytest.approx(0.6)
    assert f"{name}: 0.6000" in caplog.text
