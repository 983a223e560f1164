# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The overlay ``frozen.json`` of both bundles: f does not learn, and what was encoded once is not encoded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import SMALL_PATCHES, causes, copy_with_data, model, predicted, workflow
from monai.utils import set_determinism

CASES = {"ours": ((), {}), "mil": (("attention_mil",), {})}


@pytest.fixture(scope="module", params=["bach", "tcga_prad"])
def bundle(request, tmp_path_factory) -> Path:
    """A copy of each bundle with small data: as many pictures for training as for validation."""
    return copy_with_data(tmp_path_factory.mktemp(request.param), request.param, 4, 4, 1)


def run(bundle: Path, *overlays: str, **overrides: Any) -> tuple[Any, int]:
    """A run and the number of patches that passed through f."""
    demo, small = (("demo",), {}) if bundle.name == "bach" else ((), SMALL_PATCHES)
    made = workflow(bundle, "train", *demo, *overlays, **{"epochs": 2, **small, **overrides})
    passes: list[int] = []
    made.network_def.patch_encoder.backbone.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    made.run()
    made.finalize()
    set_determinism(None)
    return made, sum(passes)


@pytest.mark.parametrize(("overlays", "options"), CASES.values(), ids=CASES)
def test_a_second_training_and_an_evaluation_encode_nothing(bundle, overlays, options, tmp_path):
    options = {**options, "feature_cache": str(tmp_path)}
    made, encoded = run(bundle, "frozen", *overlays, **options)
    items = [item for side in (made.train_dataset, made.parser.get_parsed_content("validate#dataset")) for item in side]
    cells = sum(item["pyramid"].geometry.num_cells for item in items)
    assert encoded == cells if overlays else 2 * len(items) <= encoded < cells
    assert all(item["pyramid"].orientation == 0 and item["pyramid"].stain is None for item in items)
    before = model(bundle, "checkpoint.pt")["model"]
    made, encoded = run(bundle, "frozen", *overlays, **options)
    assert encoded == 0
    again = model(bundle, "checkpoint.pt")["model"]
    assert all(torch.equal(value, again[name]) for name, value in before.items())
    run(bundle, "frozen", *overlays, epochs=1, **options)
    shorter = model(bundle, "checkpoint.pt")["model"]
    same = {name for name, value in before.items() if torch.equal(value, shorter[name])}
    assert same == {"spacings", "trained_with"} | {name for name in before if name.startswith("patch_encoder.")}
    made, encoded = run(bundle, "frozen", *overlays, "evaluate", output_dir=str(tmp_path / "kept"), **options)
    assert encoded == 0
    made, encoded = run(
        bundle, *overlays, "evaluate", output_dir=str(tmp_path / "plain"), **{**options, "feature_cache": None}
    )
    assert encoded > 0
    plain = predicted(tmp_path / "plain")
    for name, probabilities in predicted(tmp_path / "kept").items():
        assert probabilities == pytest.approx(plain[name], abs=1e-6)


def test_the_overlay_keeps_features_in_the_bundle(bundle):
    made, _ = run(bundle, "frozen", epochs=1)
    assert made.network_def.patch_encoder.feature_cache.folder == bundle / "features"
    assert list((bundle / "features").rglob("*.features"))


def test_features_of_an_f_that_learns_are_refused(bundle):
    with pytest.raises(Exception) as error:  # noqa: PT011
        run(bundle, feature_cache="features")
    (cause,) = (e for e in causes(error.value) if isinstance(e, ValueError))
    assert "feature_cache 'features' keeps what does not change, but f is being trained" in str(cause)
