# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Seeded draws: those of an image depend on the seed, its file and its place in it, and on nothing else."""

from __future__ import annotations

import pytest
import torch
from feature_cases import load, thumbnails
from tiny_networks import mil_net, pictures, tiny_net

from monai_jsma.data import PyramidBatch
from monai_jsma.inferers import JSMAInferer
from monai_jsma.networks import (
    ESTIMATORS,
    AllPatches,
    Certified,
    Draws,
    LeaveOneOut,
    Pathwise,
    Prefix,
    TopK,
)

RANDOM = [
    *(Pathwise(3, estimator=name) for name in ESTIMATORS),
    LeaveOneOut(3),
    Prefix(3),
    Draws(Prefix(3), 2),
]


def predict(net, batch: PyramidBatch, sampler, *, seed=0):
    inferer = JSMAInferer(sampler, seed=seed)
    return inferer(thumbnails(batch), net, pyramid=batch, return_attention=True)


def assert_same_row(one, row: int, other, other_row: int) -> None:
    for key in ("logits", "attention", "cells", "weights"):
        first, second = one[key][row], other[key][other_row]
        length = min(len(first), len(second))  # beyond it is padding
        torch.testing.assert_close(first[:length], second[:length], msg=key)
        assert not first[length:].any()
        assert not second[length:].any()


@pytest.mark.parametrize("sampler", RANDOM, ids=repr)
def test_draws_do_not_depend_on_the_batch(sampler, files):
    net = tiny_net().eval()
    together = predict(net, load(files), sampler)
    torch.rand(7)  # nor on what was drawn before
    other_order = predict(net, load(files[::-1]), sampler)
    for i, file in enumerate(files):
        alone = predict(net, load([file]), sampler)
        assert_same_row(together, i, alone, 0)
        assert_same_row(together, i, other_order, len(files) - 1 - i)


@pytest.mark.parametrize("sampler", [None, Pathwise(3)], ids=repr)
def test_random_patches_of_a_network_without_thumbnail(sampler, files):
    """The bundles' random-patch baseline: by default such a network draws in evaluation too."""
    net = tiny_net(thumbnail_encoder=None, sampler=Pathwise(3, estimator="normalized")).eval()
    together = predict(net, load(files), sampler)
    for i, file in enumerate(files):
        assert_same_row(together, i, predict(net, load([file]), sampler), 0)
    other_seed = predict(net, load(files), sampler, seed=1)
    assert not torch.equal(other_seed["cells"], together["cells"])


def test_draws_depend_on_the_place_in_the_file(files):
    net = tiny_net(thumbnail_encoder=None).eval()
    drawn = [
        predict(net, load(files[:1], lambda pyramid, row=row: pyramid.cropped((row, 0), (16, 16))), Draws(3, 8))
        for row in (0, 4)
    ]
    assert drawn[0]["attention"].shape == drawn[1]["attention"].shape
    assert not torch.equal(drawn[0]["cells"], drawn[1]["cells"])


@pytest.mark.parametrize("sampler", RANDOM, ids=repr)
def test_whole_images_are_seeded_too(sampler):
    """They have no file: the seed alone counts."""
    net = tiny_net().eval()
    images = torch.stack(pictures((24, 20), (24, 20), (24, 20)))
    inferer = JSMAInferer(sampler, seed=3)
    together = inferer(images, net, return_attention=True)
    for i in range(3):
        assert_same_row(together, i, inferer(images[i : i + 1], net, return_attention=True), 0)
    assert torch.equal(inferer(images, net), together["logits"])


@pytest.mark.parametrize("sampler", [None, TopK(3), AllPatches(), Certified(4)], ids=repr)
def test_what_draws_nothing_is_predicted_as_a_batch(sampler, files):
    net = tiny_net(feature_norm="l2").eval()
    calls = []
    net.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    predict(net, load(files), sampler)
    assert calls == [3]


def test_attention_mil_draws_nothing(files):
    net = mil_net().eval()
    calls = []
    net.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    predict(net, load(files), None)
    assert calls == [3]


@pytest.mark.parametrize("pyramids", [True, False])
@pytest.mark.parametrize("sampler", [None, TopK(3), Draws(3, 2), Pathwise(3)], ids=repr)
def test_an_empty_batch(sampler, pyramids):
    net = tiny_net().eval()
    options = {"pyramid": PyramidBatch()} if pyramids else {}
    logits = JSMAInferer(sampler, seed=0)(torch.zeros(0, 3, 24, 20), net, **options)
    assert logits.shape == (0, 3)
