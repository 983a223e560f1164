# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What version 0.1 left on disk still works: weights, training state, datalist, records; and its answers are the same.

``tests/samples/version_0_1`` was made with version 0.1: ``train.json``, ``demo.json`` and ``net.json`` of the bundle
``bach``, on the images of ``python -m monai_jsma synthetic data --train=12 --validation=4 --test=4 --seed=3``.
"""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from bundle_runs import copy_bundle
from monai.bundle import create_workflow
from monai.bundle.workflows import ConfigWorkflow
from monai.utils import set_determinism
from places import ROOT
from torch import Tensor

from monai_jsma.cli.bundles import find_configs
from monai_jsma.data.seeds import derive_seed
from monai_jsma.datalists import load_datalist, make_dataset
from monai_jsma.inferers import JSMAInferer
from monai_jsma.networks import JSMANet
from monai_jsma.predictions.records import PredictionRecord, read_records

SAMPLES = ROOT / "tests" / "samples" / "version_0_1"
SAMPLERS = "$monai_jsma.networks."


class Evaluation(NamedTuple):
    """An evaluation by version 0.1: its model, and how it is written now."""

    model: str
    variant: str | None = None
    settings: dict[str, Any] = {}


EVALUATIONS = {
    "defaults": Evaluation("defaults"),
    "certified": Evaluation("defaults", settings={"inference_sampler": f"{SAMPLERS}Certified(max_patches=20)"}),
    "draws": Evaluation("defaults", settings={"inference_sampler": f"{SAMPLERS}Draws(@inference_patches, 3)"}),
    "all": Evaluation("defaults", settings={"inference_sampler": f"{SAMPLERS}AllPatches()"}),
    "paper": Evaluation("paper", "paper"),
    "attention_mil": Evaluation("attention_mil", "attention_mil"),
    # Version 0.1 read as many random patches in evaluation as in training, which are 16 in the demo.
    "random_patches": Evaluation("random_patches", "random_patches", settings={"inference_patches": 16}),
}
each_evaluation = pytest.mark.parametrize("name", EVALUATIONS)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """The bundle of today, with the images and the small backbones of version 0.1."""
    copy = copy_bundle(tmp_path_factory.mktemp("version_0_1"))
    data = copy / "data"
    made = make_dataset(data, num_train=12, num_validation=4, num_test=4, seed=3)
    made.rename(data / "made_again.json")
    shutil.copy(SAMPLES / "datalist.json", data)  # today's classes have other names
    shutil.copy(SAMPLES / "net.json", copy / "configs")
    yield copy
    set_determinism(None)


def make_workflow(bundle: Path, *configs: str, **options: Any) -> ConfigWorkflow:
    """The workflow of version 0.1: the demo with small backbones, and further configurations."""
    files = [str(bundle / file) for file in find_configs(bundle, "train", "demo", "net", *configs)]
    usual = {"bundle_root": str(bundle), "max_pictures": 0, "logging_file": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "parsing config_file")  # MONAI asks whether one trusts the configuration
        return create_workflow(config_file=files, workflow_type="train", **usual, **options)


def run(bundle: Path, *configs: str, **options: Any) -> ConfigWorkflow:
    made = make_workflow(bundle, *configs, **options)
    made.run()
    made.finalize()
    return made


def evaluate(bundle: Path, name: str, folder: Path) -> Path:
    """Evaluate a model of version 0.1 on the test images, and give the folder of what was written."""
    evaluation = EVALUATIONS[name]
    models = folder / "models"
    models.mkdir(parents=True)
    shutil.copy(SAMPLES / evaluation.model / "model.pt", models)
    variants = [evaluation.variant] if evaluation.variant else []
    options = {
        "ckpt_dir": str(models),
        "output_dir": str(folder / "eval"),
        "validation_list": "test",
        "validate#additional_metrics#truth": {"_target_": "monai_jsma.metrics.AttentionOnTruth"},
    }
    run(bundle, *variants, "evaluate", **options, **evaluation.settings)
    return folder / "eval"


def numbers(path: Path) -> dict[str, float]:
    """Metrics by name."""
    with open(path, newline="", encoding="utf-8") as file:
        return {name: float(value) for name, value in csv.reader(file)}


def assert_alike(record: PredictionRecord, expected: PredictionRecord) -> None:
    """Equal but for the last digits of what a network computes."""
    place = ("location", "size", "mpp", "mpp_source", "classes", "label", "magnifications", "patch_size", "aligned")
    for key in place:
        assert getattr(record, key) == getattr(expected, key)
    assert Path(record.file).name == Path(expected.file).name
    assert record.cells.tolist() == expected.cells.tolist()
    assert record.certified == expected.certified
    for key in ("probabilities", "attention"):
        assert getattr(record, key) == pytest.approx(getattr(expected, key), abs=1e-6)
    weights = [patch.weight for patch in record.patches]
    assert weights == pytest.approx([patch.weight for patch in expected.patches], abs=1e-6)
    for key in ("draw_probabilities", "intervals"):
        rows, others = getattr(record, key), getattr(expected, key)
        assert (rows is None) == (others is None)
        for row, other in zip(rows or (), others or (), strict=True):
            assert row == pytest.approx(other, abs=1e-5)


def draw_by_batch(inferer: JSMAInferer, inputs: Tensor, network: JSMANet, **options: Any) -> Any:
    """As version 0.1: one seed for a batch, so that the patches drawn of an image depended on its neighbors."""
    assert inferer.seed is not None
    torch.manual_seed(derive_seed(inferer.seed, options["pyramid"]))
    return network(inputs, sampler=inferer.sampler, **options)


@each_evaluation
def test_a_model_gives_the_answers_that_it_gave(bundle, name, tmp_path, monkeypatch):
    if name == "random_patches":
        monkeypatch.setattr(JSMAInferer, "__call__", draw_by_batch)
    written = evaluate(bundle, name, tmp_path)
    records = read_records(written / "predictions.jsonl")
    for record, expected in zip(records, read_records(SAMPLES / name / "predictions.jsonl"), strict=True):
        assert_alike(record, expected)
    metrics = numbers(written / "metrics.csv")
    expected = numbers(SAMPLES / name / "metrics.csv")
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=1e-5)


def test_a_training_goes_on(bundle, tmp_path):
    """The state of the optimizer goes by the order of the parameters: each meets the moments that it had."""
    saved = torch.load(SAMPLES / "defaults" / "checkpoint.pt", weights_only=True)
    shutil.copy(SAMPLES / "defaults" / "checkpoint.pt", tmp_path)
    places = {"ckpt_dir": str(tmp_path), "log_dir": str(tmp_path / "runs")}
    done = saved["trainer"]["iteration"]  # one iteration in an epoch
    made = run(bundle, **places, epochs=done, resume=True)
    restored = made.trainer.optimizer.state_dict()["state"]
    names = [name for name, _ in made.network_def.named_parameters()]
    shapes = [tuple(parameter.shape) for parameter in made.network_def.parameters()]
    moments = saved["optimizer"]["state"]
    assert sorted(moments) == list(range(len(names)))
    for i, shape in enumerate(shapes):
        assert tuple(moments[i]["exp_avg"].shape) == shape, names[i]
        assert torch.equal(restored[i]["exp_avg"], moments[i]["exp_avg"])

    run(bundle, **places, epochs=done + 2, resume=True)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["trainer"]["iteration"] == done + 2
    assert {name.split(".")[0] for name in state["model"]} == {
        "spacings", "trained_with", "thumbnail_encoder", "patch_encoder", "attention", "classifier"
    }  # fmt: skip
    assert all(value.isfinite().all() for value in state["model"].values())


def test_the_datalist_is_read_as_it_was_written(bundle):
    content = json.loads((SAMPLES / "datalist.json").read_text())
    for split, number in (("training", 12), ("validation", 4), ("test", 4)):
        items = load_datalist(SAMPLES / "datalist.json", split, bundle / "data")
        assert [item["label"] for item in items] == [item["label"] for item in content[split]]
        assert len(items) == number
    made_again = json.loads((bundle / "data" / "made_again.json").read_text())
    checksums = [[item["sha256"] for item in made[split]] for made in (content, made_again) for split in ("test",)]
    assert checksums[0] == checksums[1]


@each_evaluation
def test_records_are_read(name):
    path = SAMPLES / name / "predictions.jsonl"
    records = read_records(path)
    for record, line in zip(records, path.read_text().splitlines(), strict=True):
        assert json.loads(record.to_json()) == json.loads(line)
