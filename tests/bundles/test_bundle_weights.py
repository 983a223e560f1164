# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The BACH bundle takes classes and settings from the weights that it has trained, and refuses others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bundle_runs import (
    BUNDLES,
    SMALL_BACKBONE,
    VARIANTS,
    causes,
    copy_bundle,
    copy_used,
    items,
    make_pictures,
    model,
    run,
)
from monai.bundle import load

from monai_jsma.predictions.records import read_records

NAMES = BUNDLES["bach"].classes
REVERSED = NAMES[::-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A bundle after one epoch, whose datalist names the classes of BACH."""
    bundle = copy_bundle(tmp_path_factory.mktemp("trained"))
    make_pictures(bundle / "data", 4, 4, 2)
    name_classes(bundle, NAMES)
    run(bundle, "train", "demo", epochs=1)
    return bundle


@pytest.fixture
def bundle(trained, tmp_path) -> Path:
    """A copy of the trained bundle, which a test may change."""
    return copy_used(trained, tmp_path)


def name_classes(bundle: Path, names: list[str]) -> None:
    path = bundle / "data" / "datalist.json"
    labels = {str(i): name for i, name in enumerate(names)}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))


def assert_refused(message: str, bundle: Path, *configs: str, **overrides) -> None:
    with pytest.raises((ValueError, RuntimeError)) as error:  # MONAI wraps some
        run(bundle, *configs, **overrides)
    assert any(message in str(cause) for cause in causes(error.value)), error.value


RUNS = {
    "resume": (("train", "demo"), {"resume": True, "epochs": 2}),
    "evaluation": (("train", "demo", "evaluate"), {}),
    "inference": (("inference", "demo"), {"workflow_type": "infer", "region_size": None}),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_datalist_of_another_order_is_refused(bundle, kind):
    configs, options = RUNS[kind]
    name_classes(bundle, REVERSED)
    message = f"the weights were trained with the classes {NAMES}, but the datalist or 'class_names' has {REVERSED}"
    assert_refused(message, bundle, *configs, **options)


def test_one_file_without_a_datalist_has_the_names_of_the_training(bundle):
    image = str(bundle / "data" / items(bundle, "test")[0]["image"])
    (bundle / "data" / "datalist.json").unlink()
    configs, options = RUNS["inference"]
    run(bundle, *configs, **options, data=[{"image": image, "mpp": 0.5}], max_pictures=1)
    (record,) = read_records(bundle / "predictions" / "predictions.jsonl")
    assert list(record.classes) == NAMES
    header = (bundle / "predictions" / "predictions.csv").read_text().splitlines()[0]
    assert [f"probability_{name}" in header for name in NAMES] == [True] * 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patch_size": 48}, "patch_size = 32, but the network has 48"),
        ({"aligned": True}, "aligned = False, but the network has True"),
        ({"feature_norm": None}, "feature_norm = 'l2', but the network has 'None'"),
        ({"normalization": "sigmoid"}, "normalization = 'softmax', but the network has 'sigmoid'"),
    ],
)
def test_another_setting_than_that_of_the_training_is_refused(bundle, overrides, message):
    configs, options = RUNS["inference"]
    assert_refused(f"the weights were trained with {message}", bundle, *configs, **options, **overrides)


def test_monai_loads_weights_and_names(bundle, monkeypatch):
    demo = json.loads((VARIANTS / "demo.json").read_text())
    train = bundle / "configs" / "train.json"
    small = {"thumbnail_backbone": SMALL_BACKBONE, "patch_backbone": SMALL_BACKBONE}
    train.write_text(json.dumps(json.loads(train.read_text()) | demo | small))
    monkeypatch.chdir(bundle.parent)  # no datalist there
    network = load("bach", bundle_dir=str(bundle.parent), source="github")
    assert network.class_names == NAMES
    assert torch.equal(network.classifier.weight, model(bundle)["classifier.weight"])
