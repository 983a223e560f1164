# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The overlay ``pretrained.json`` of both bundles, with an encoder that is small: it trains, evaluates and predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import SMALL_PATCHES, copy_with_data, model, predicted, workflow
from monai.utils import set_determinism


@pytest.fixture(scope="module", params=["bach", "tcga_prad"])
def bundle(request, tmp_path_factory) -> Path:
    return copy_with_data(tmp_path_factory.mktemp(request.param), request.param, 4, 4, 1)


def run(bundle: Path, *configs: str, **overrides: Any) -> dict[str, int]:
    """Run with the overlay; how many images each encoder was given."""
    spacing = {"mpp": 0.5} if bundle.name == "bach" else {}
    options = {**SMALL_PATCHES, **spacing, "num_patches": 3, "inference_patches": 3, **overrides}
    kind = "infer" if configs[0] == "inference" else "train"
    made = workflow(bundle, configs[0], "pretrained", *configs[1:], workflow_type=kind, **options)
    encoded = {"h": 0, "f": 0}

    def count(name: str, backbone: torch.nn.Module) -> None:
        def add(_: torch.nn.Module, args: tuple) -> None:
            encoded[name] += len(args[0])

        backbone.register_forward_pre_hook(add)

    count("h", made.network_def.thumbnail_encoder)
    count("f", made.network_def.patch_encoder.backbone)
    made.run()
    made.finalize()
    set_determinism(None)
    return encoded


def test_it_trains_evaluates_and_predicts(bundle):
    first = run(bundle, "train", epochs=3)
    state = model(bundle, "checkpoint.pt")
    weights = state["model"]
    assert weights["patch_encoder.standardizer.num_patches"] > 0
    assert weights["thumbnail_standardizer.num_patches"] > 0
    again = run(bundle, "train", epochs=3)
    assert again["f"] == 0
    assert again["h"] == 1  # which tells the size of the maps
    assert first["f"] > 0
    repeated = model(bundle, "checkpoint.pt")["model"]
    assert all(torch.equal(value, repeated[name]) for name, value in weights.items())
    rates = [group["lr"] for group in state["optimizer"]["param_groups"]]
    assert rates == [0.00001, 0.00001, 0.001]

    run(bundle, "train", "evaluate")
    evaluated = predicted(bundle / "eval")
    run(bundle, "train", "evaluate", output_dir=str(bundle / "again"), feature_cache=None)
    for name, probabilities in predicted(bundle / "again").items():
        assert probabilities == pytest.approx(evaluated[name], abs=1e-4)
    run(bundle, "inference", region_size=None)
    assert predicted(bundle / "predictions")


def test_encoders_may_learn_after_a_frozen_start(bundle):
    before = run(bundle, "train", epochs=2, unfreeze_epoch=2, ckpt_dir=str(bundle / "tuned"))
    assert before["f"] > 0
    state = torch.load(bundle / "tuned" / "checkpoint.pt", weights_only=True)
    groups = state["optimizer"]["param_groups"]
    assert len(state["optimizer"]["state"]) == sum(len(group["params"]) for group in groups)  # all have learned
