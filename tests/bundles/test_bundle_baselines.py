# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every baseline of both bundles trains, is evaluated and predicts by the commands of the bundle, as an overlay."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_runs import SMALL_PATCHES, TINY, VARIANTS, copy_with_data, predicted, rows
from monai.bundle import create_workflow
from monai.bundle.workflows import ConfigWorkflow
from monai.utils import set_determinism

from monai_jsma.cli.bundles import find_configs
from monai_jsma.data import Magnification
from monai_jsma.networks import AllPatches, AttentionMIL, JSMANet, UniformAttention
from monai_jsma.predictions.patch_counts import read_patch_counts
from monai_jsma.predictions.records import read_records
from monai_jsma.report.claims import find_contradictions

CELLS = {"bach": 84, "tcga_prad": 21}
BASELINES = (
    "all_patches",
    "attention_mil",
    "balanced_random_patches",
    "mean_features",
    "random_patches",
    "thumbnail_only",
    "whole_image",
)
ONE_LEVEL = ("thumbnail_only", "whole_image")
UNIFORM = ("balanced_random_patches", "mean_features", "random_patches", *ONE_LEVEL)


@pytest.fixture(scope="module", params=list(CELLS))
def bundle(request, tmp_path_factory) -> Path:
    """A copy of each bundle with small data. What makes a run tiny comes before the overlays, as ``tiny.json``."""
    name = request.param
    copy = copy_with_data(tmp_path_factory.mktemp(name), name, 4, 4, 2)
    tiny = TINY | SMALL_PATCHES
    if name == "bach":
        tiny = json.loads((VARIANTS / "demo.json").read_text()) | TINY
    (copy / "configs" / "tiny.json").write_text(json.dumps(tiny | {"epochs": 1}))
    return copy


def run(bundle: Path, *configs: str, kind: str = "train", **overrides: Any) -> ConfigWorkflow:
    files = [str(bundle / file) for file in find_configs(bundle, *configs)]
    options = {"bundle_root": str(bundle), "workflow_type": kind, "logging_file": False, **overrides}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "parsing config_file")  # MONAI asks whether one trusts the configuration
        made = create_workflow(config_file=files, **options)
    made.run()
    made.finalize()
    set_determinism(None)
    return made


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_trains_is_evaluated_and_predicts(bundle, baseline):
    folders = {"ckpt_dir": str(bundle / baseline)}
    made = run(bundle, "train", "tiny", baseline, **folders, log_dir=str(bundle / "runs" / baseline))
    assert (bundle / baseline / "model.pt").is_file()
    (counts,) = read_patch_counts(bundle / baseline / "patches.csv")
    assert counts.epoch == 1
    assert counts.images == len(made.train_dataset)
    evaluated, inferred = bundle / baseline / "eval", bundle / baseline / "predictions"
    made = run(bundle, "train", "tiny", baseline, "evaluate", **folders, output_dir=str(evaluated), max_pictures=1)
    assert len(list((evaluated / "attention").glob("*.png"))) == 1
    check(made, baseline, CELLS[bundle.name])
    metrics = {name: value for name, (value,) in rows(evaluated / "metrics.csv").items()}
    shares = [value for name, value in metrics.items() if name.startswith("attention_share_")]
    assert sum(shares) == pytest.approx(1)
    assert len(shares) == (1 if baseline in ONE_LEVEL else 3)
    assert find_contradictions([baseline], read_records(evaluated / "predictions.jsonl")) == []
    table = predicted(evaluated)
    prob = np.array(list(table.values()))
    np.testing.assert_allclose(prob.sum(axis=1), 1, atol=1e-6)
    options = {"kind": "infer", "test_list": "validation", "output_dir": str(inferred), "max_pictures": 0}
    run(bundle, "inference", "tiny", baseline, **folders, **options)
    found = predicted(inferred)
    assert found.keys() == table.keys()
    np.testing.assert_allclose(list(found.values()), prob, atol=1e-6)


def check(made: ConfigWorkflow, baseline: str, cells: int) -> None:
    """The network is the baseline's, and so is what it read of the last picture."""
    network, output = made.network_def, made.evaluator.state.output[0]
    read, attention = int((output["weights"] > 0).sum()), output["attention"]
    assert isinstance(network, AttentionMIL if baseline == "attention_mil" else JSMANet)
    if baseline == "random_patches":
        assert read == 2
        assert attention.tolist() == pytest.approx([1 / cells] * cells)
        assert output["weights"].tolist() == pytest.approx([1 / 2] * 2)
    elif baseline == "balanced_random_patches":
        assert read == 2
        pyramid = made.evaluator.state.batch[0]["pyramid"]
        for cells in pyramid.geometry.slices.values():
            assert attention[cells].tolist() == pytest.approx(
                [1 / 3 / (cells.stop - cells.start)] * len(attention[cells])
            )
    elif baseline == "thumbnail_only":
        assert read == len(attention) == 1
        (magnification,) = network.magnifications
        assert magnification == Magnification(8 * made.parser.get_parsed_content("mpp"))
    elif baseline == "whole_image":
        pyramid = made.evaluator.state.batch[0]["pyramid"]
        assert read == len(attention) == 1
        assert pyramid.geometry.patch_size == 448
    else:
        assert read == cells
        np.testing.assert_allclose(output["weights"], attention, rtol=1e-6)
    uniform = baseline in UNIFORM
    assert isinstance(network.attention, UniformAttention) == uniform
    assert (getattr(network, "thumbnail_encoder", None) is None) == (uniform or baseline == "attention_mil")


def test_random_patches_are_those_of_the_seed(bundle):
    folders = {"ckpt_dir": str(bundle / "seeded"), "max_pictures": 0}
    run(bundle, "train", "tiny", "random_patches", **folders)
    drawn = []
    for seed in (0, 0, 1):
        made = run(bundle, "inference", "tiny", "random_patches", kind="infer", seed=seed, **folders)
        drawn.append([output["cells"].tolist() for output in made.evaluator.state.output])
    assert drawn[0] == drawn[1] != drawn[2]


def test_one_magnification_and_a_baseline_are_two_overlays(bundle):
    overlays = ("single_magnification", "all_patches")
    made = run(bundle, "train", "tiny", *overlays, ckpt_dir=str(bundle / "single"))
    assert len(made.network_def.magnifications) == 1
    assert made.network_def.sampler == AllPatches()
    grid = made.train_dataset[0]["pyramid"].geometry.num_cells
    assert made.evaluator.state.output[0]["cells"].shape == (grid,)


def test_on_tissue_a_baseline_is_what_it_is_called(bundle):
    overlays = ("balanced_random_patches", "tissue_only")
    folders = {"ckpt_dir": str(bundle / "tissue")}
    made = run(bundle, "train", "tiny", *overlays, **folders)
    assert made.train_dataset[0]["pyramid"].tissue is not None
    evaluated = bundle / "tissue" / "eval"
    run(bundle, "train", "tiny", *overlays, "evaluate", **folders, output_dir=str(evaluated), max_pictures=0)
    records = read_records(evaluated / "predictions.jsonl")
    assert find_contradictions(overlays, records, on_tissue=True) == []
    options = {"kind": "infer", "test_list": "validation", "output_dir": str(bundle / "tissue" / "predictions")}
    run(bundle, "inference", "tiny", *overlays, **folders, **options, max_pictures=0)
    assert predicted(bundle / "tissue" / "predictions").keys() == predicted(evaluated).keys()
