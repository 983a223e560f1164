# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The number of patches of each epoch, in an engine and in both bundles: as scheduled, resumed, or refused."""

from __future__ import annotations

import json

import pytest
from bundle_runs import BUNDLES, SMALL_PATCHES, TINY, VARIANTS, causes, copy_with_data, workflow
from ignite.engine import Engine, Events
from torch import nn

from monai_jsma.handlers.num_patches import NumPatchesScheduler
from monai_jsma.networks import AllPatches, AttentionMIL, ConvBackbone, JSMANet, LeaveOneOut, TrainingSampler


def make_net(sampler: TrainingSampler | None = None) -> JSMANet:
    h, f = ConvBackbone((8,)), ConvBackbone((8,))
    sampler = LeaveOneOut(2) if sampler is None else sampler
    return JSMANet(2, (1.0, 0.5), weights=None, sampler=sampler, thumbnail_encoder=h, patch_encoder=f)


def patches_of_epochs(network: nn.Module, handler: NumPatchesScheduler, epochs: int, done: int = 0) -> list[int]:
    seen: list[int] = []
    engine = Engine(lambda engine, batch: seen.append(network.sampler.k))
    handler.attach(engine)
    engine.load_state_dict({"epoch": done, "epoch_length": 2, "max_epochs": epochs})
    engine.run([0, 1], max_epochs=epochs)
    return seen


@pytest.mark.parametrize(("first", "expected"), [(0, [2, 2, 2, 2]), (1, [7, 2, 2, 2]), (3, [7, 7, 7, 2])])
def test_the_first_epochs_draw_more(first, expected):
    network = make_net()
    handler = NumPatchesScheduler(network, 7, first)
    assert patches_of_epochs(network, handler, 4) == [k for k in expected for _ in range(2)]
    for done in range(4):
        network = make_net()
        found = patches_of_epochs(network, NumPatchesScheduler(network, 7, first), 4, done)
        assert found == [k for k in expected[done:] for _ in range(2)]


@pytest.mark.parametrize(
    ("usual", "first", "epochs", "message"),
    [
        (LeaveOneOut(2), 1, 1, "at least the usual 2, but is 1"),
        (LeaveOneOut(2), "all", 1, "at least the usual 2, but is 'all'"),
        (LeaveOneOut(2), 2.5, 1, "at least the usual 2, but is 2.5"),
        (LeaveOneOut(2), 4, -1, "must be at least 0, but is -1"),
        (LeaveOneOut(2), 4, 1.5, "must be at least 0, but is 1.5"),
        (AllPatches(), 4, 1, "no number of patches to schedule"),
    ],
)
def test_numbers_that_cannot_be(usual, first, epochs, message):
    with pytest.raises(ValueError, match=message):
        NumPatchesScheduler(make_net(usual), first, epochs)


def test_a_network_without_a_number_of_patches():
    network = AttentionMIL(2, (1.0,), weights=None, patch_encoder=ConvBackbone((8,)))
    NumPatchesScheduler(network, "all", 0)
    with pytest.raises(ValueError, match="no number of patches to schedule"):
        NumPatchesScheduler(network, 4, 1)


@pytest.fixture(scope="module", params=list(BUNDLES))
def bundle(request, tmp_path_factory):
    """A copy of each bundle, with small data whose classes are uneven."""
    copy = copy_with_data(tmp_path_factory.mktemp(request.param), request.param, 5, 2, 1)
    tiny = TINY | SMALL_PATCHES
    if request.param == "bach":
        tiny = json.loads((VARIANTS / "demo.json").read_text()) | TINY
    (copy / "configs" / "tiny.json").write_text(json.dumps(tiny))
    return copy


def train(bundle, *configs: str, **options) -> list[tuple[int, int, list[int]]]:
    """Epoch, patches drawn of each picture, and labels, of every iteration."""
    made, seen = workflow(bundle, "train", "tiny", *configs, **{"num_patches": 2, **options}), []

    def note(engine: Engine) -> None:
        labels = [int(output["label"]) for output in engine.state.output]
        seen.append((engine.state.epoch, len(engine.state.output[0]["cells"]), labels))

    made.trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    made.run()
    made.finalize()
    return seen


def test_a_bundle_warms_up_and_resumes(bundle):
    classes = 4 if bundle.name == "bach" else 3
    options = {"warmup_patches": 5, "warmup_epochs": 2, "batch_size": classes}
    options["ckpt_dir"] = str(bundle / "warm")
    first = train(bundle, epochs=1, **options)
    later = train(bundle, epochs=4, resume=True, **options)
    steps = 2 if bundle.name == "bach" else 1  # of 5 pictures, and of 3
    assert [(epoch, k) for epoch, k, _ in first + later] == [
        (epoch, k) for epoch, k in ((1, 5), (2, 5), (3, 2), (4, 2)) for _ in range(steps)
    ]
    assert all(sorted(labels) == list(range(classes)) for _, _, labels in first + later)


def test_by_default_the_number_stays_and_unbalanced_batches_take_each_picture_once(bundle):
    seen = train(bundle, epochs=2, balanced=False, ckpt_dir=str(bundle / "default"))
    assert {k for _, k, _ in seen} == {2}
    assert sum(len(labels) for _, _, labels in seen) == 2 * (5 if bundle.name == "bach" else 3)


@pytest.mark.parametrize("baseline", ["all_patches", "attention_mil"])
def test_a_baseline_on_all_patches_refuses_to_warm_up(bundle, baseline):
    with pytest.raises(RuntimeError) as raised:
        train(bundle, baseline, warmup_epochs=1, warmup_patches=4)
    *_, cause = causes(raised.value)
    assert isinstance(cause, ValueError)
    assert "no number of patches to schedule" in str(cause)
