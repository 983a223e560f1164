# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Certified stopping, attacked: the patches that were not read are made as bad as features of length 1 can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from certified_cases import read_by_hand, table_net, worst_features
from hypothesis import given, settings
from hypothesis import strategies as st
from slide_files import levels_of, picture, write_pyramid
from tiny_networks import Pictures, mil_net, pictures, tiny_net
from torch import nn

from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.inferers import JSMAInferer
from monai_jsma.networks import AllPatches, Certified, Draws
from monai_jsma.transforms import LoadPyramid, PyramidThumbnail


def certified(net, source, max_patches=None, chunk=1):
    sampler = Certified(max_patches, chunk=chunk)
    return net(source.thumbnails, source, return_attention=True, sampler=sampler)


def count_reads(source) -> list[int]:
    """A list that gets the number of patches of each reading."""
    read, counts = source.read, []

    def read_and_count(pictures, cells):
        counts.append(len(cells))
        return read(pictures, cells)

    source.read = read_and_count
    return counts


# --------------------------------------------------------------------------------------------------------- the theorem

CASES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "cells": st.lists(st.integers(1, 25), min_size=1, max_size=4),
        "classes": st.integers(2, 6),
        "size": st.sampled_from([1, 2, 5, 32]),
        "attention": st.sampled_from(["flat", "ties", "mild", "sharp", "one-hot"]),
        "kinds": st.sampled_from([1, 2, 1000]),  # distinct features of a picture
        "weight": st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e6]),
        "bias": st.sampled_from([0.0, 1.0, 1e4]),
        "non_negative": st.booleans(),
    }
)


@settings(max_examples=120, deadline=None)
@given(CASES, st.integers(1, 4), st.none() | st.integers(1, 12))
@torch.no_grad()
def test_a_certified_label_is_that_of_all_patches_whatever_they_show(case, chunk, cap):
    net, source = table_net(**case)
    found = certified(net, source, cap, chunk)
    labels, (low, high) = found["logits"].argmax(1), found["intervals"].double().unbind(2)
    weight = net.classifier.weight * net.classifier.scale
    unseen = [sorted(set(range(n)) - source.read_cells[i]) for i, n in enumerate(case["cells"])]
    attacks = [None, *((a, b) for a in range(case["classes"]) for b in range(case["classes"]) if a != b)]
    for attack in attacks:
        if attack is not None:
            for features, cells in zip(source.features, unseen, strict=True):
                features[cells] = worst_features(weight, *attack, case["non_negative"])
        logits = net(source.thumbnails, source, sampler=AllPatches())
        assert torch.equal(logits.argmax(1)[found["certified"]], labels[found["certified"]])
        prob = logits.double().softmax(1)
        assert (prob >= low - 1e-6).all()
        assert (prob <= high + 1e-6).all()
    own = found["logits"].double().softmax(1)
    assert (own >= low - 1e-6).all()
    assert (own <= high + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(CASES, st.integers(1, 4), st.none() | st.integers(1, 12))
@torch.no_grad()
def test_as_many_patches_are_read_as_it_takes_and_no_more(case, chunk, cap):
    net, source = table_net(**{**case, "weight": 1.0, "bias": 1.0})
    found = certified(net, source, cap, chunk)
    assert max(source.times.values()) == 1
    for i, n in enumerate(case["cells"]):
        stop, sure = read_by_hand(net, source, i, chunk, cap)
        drawn = found["weights"][i] > 0
        cells = found["cells"][i][drawn]
        attention = found["attention"][i]
        assert drawn.sum() == len(source.read_cells[i]) == stop
        assert found["certified"][i] == sure
        assert set(cells.tolist()) == source.read_cells[i] <= set(range(n))
        others = set(range(n)) - source.read_cells[i]
        assert attention[cells].min() >= max((float(attention[cell]) for cell in others), default=0)
        torch.testing.assert_close(found["weights"][i][drawn], attention[cells] / attention[cells].sum())


@torch.no_grad()
@pytest.mark.parametrize("weights", [((1.0, 0.0), (1.0, 0.0)), ((1.0, 0.0), (0.0, 1.0))])
def test_a_tie_of_all_patches_is_never_certain(weights):
    net, source = table_net(seed=0, cells=[2], classes=2, size=2, attention="flat")
    net.classifier.weight.copy_(torch.tensor(weights))
    source.features[0].copy_(torch.eye(2))
    found = certified(net, source)
    assert source.read_cells == [{0, 1}]
    assert found["certified"].tolist() == [False]


@torch.no_grad()
def test_patches_without_attention_are_not_even_asked_for():
    net, source = table_net(seed=0, cells=[9, 4], classes=2, size=2, attention="one-hot", weight=0.0)
    read = count_reads(source)
    assert certified(net, source)["certified"].tolist() == [False, False]  # all classes tie
    assert read == [2]


@torch.no_grad()
def test_the_cap_ends_it_without_a_certificate():
    net, source = table_net(seed=1, cells=[25, 3], classes=3, size=32, attention="flat")
    found = certified(net, source, 5, 2)
    assert [len(cells) for cells in source.read_cells] == [5, 3]
    assert found["cells"].shape == (2, 5)
    assert not found["certified"][0]
    low, high = found["intervals"][0].unbind(1)
    assert (low < high - 0.1).all()


@torch.no_grad()
def test_one_patch_is_enough_if_it_has_all_of_the_attention():
    net, source = table_net(seed=1, cells=[25, 7], classes=3, size=32, attention="one-hot")
    found = certified(net, source)
    assert [len(cells) for cells in source.read_cells] == [1, 1]
    assert found["certified"].all()
    low, high = found["intervals"].unbind(2)
    assert (high - low).max() < 0.05


# ------------------------------------------------------------------------------------------------ pictures and slides


def sharp_net(seed=0, **options):
    """A real network whose patches decide: features of length 1, large weights, attention that tells cells apart."""
    net = tiny_net(feature_norm="l2", **options).eval()
    torch.manual_seed(seed)
    nn.init.normal_(net.classifier.weight, std=2.0)
    for conv in net.attention.logits:
        nn.init.normal_(conv.weight, std=20.0)
    return net


def batch():
    images = Pictures(pictures((24, 20), (40, 33), (6, 7), (40, 33)))
    images.thumbnails = images.thumbnails()
    return images


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("amp", [False, True])
def test_pictures_of_a_batch_are_read_as_alone_and_labelled_as_by_all(seed, amp):
    net, images = sharp_net(seed), batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        everything = net(images.thumbnails, images, sampler=AllPatches()).argmax(1)
        images.patches_read = 0
        together = certified(net, images)
        count = (together["weights"] > 0).sum(1)
        assert images.patches_read == count.sum()
        sure = together["certified"]
        assert torch.equal(together["logits"].argmax(1)[sure], everything[sure])
        for i, single in enumerate(images.singles):
            alone = net(images.thumbnails[i : i + 1], single, return_attention=True, sampler=Certified())
            assert alone["cells"][0].tolist() == together["cells"][i, : count[i]].tolist()
            assert alone["certified"][0] == sure[i]
            for key in ("logits", "intervals"):
                torch.testing.assert_close(alone[key][0], together[key][i], rtol=0.02 if amp else 1e-4, atol=0.05)
    if not amp:
        assert count.sum() < 13 + 31 + 2 + 31
        assert sure.all()


@torch.no_grad()
def test_only_the_patches_that_decide_are_read_from_a_slide(tmp_path, monkeypatch):
    path = write_pyramid(tmp_path / "a.tif", levels_of(picture(256, 256, seed=3), (2,)), tile=(16, 16), mpp=1.0)
    net = sharp_net()
    slide = LoadPyramid((2.0, 1.0), patch_size=8)(path)
    thumbnail = torch.from_numpy(np.asarray(PyramidThumbnail((16, 16))(slide)))[None]
    read, read_into = [], Pyramid.read_into
    monkeypatch.setattr(Pyramid, "read_into", lambda *args: read.append(args[2]) or read_into(*args))
    slides = PyramidBatch([slide])
    found = JSMAInferer(Certified(chunk=3))(thumbnail, net, pyramid=slides, return_attention=True)
    drawn = found["cells"][0][found["weights"][0] > 0].tolist()
    assert sorted(read) == sorted(drawn)
    assert len(read) < slide.geometry.num_cells / 4
    assert found["certified"].item()
    assert net(thumbnail, slides, sampler=AllPatches()).argmax() == found["logits"].argmax()


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("change", ["feature_norm", "classifier"])
def test_networks_without_a_bound_are_refused(change):
    images = batch()
    net = tiny_net(feature_norm=None if change == "feature_norm" else "l2").eval()
    if change == "classifier":
        net.classifier = nn.Sequential(net.classifier)
    with pytest.raises(ValueError, match=r"Certified and Confident need features of length 1 .*feature_norm"):
        certified(net, images)
    assert images.patches_read == 0


@pytest.mark.parametrize("options", [{"max_patches": 0}, {"chunk": 0}])
def test_numbers_below_one_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} of Certified must be a whole number of at least 1, but is 0"):
        Certified(**options)


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ValueError, match=r"Draws repeats what .* draws, but got Certified\(.*give one of these"):
        Draws(Certified(), 2)
    with pytest.raises(ValueError, match=r"from Certified\(.* the attention cannot learn: train with LeaveOneOut"):
        tiny_net(sampler=Certified())
    with pytest.raises(ValueError, match=r"from Certified\(.* the attention cannot learn: train with LeaveOneOut"):
        certified(sharp_net().train(), batch())


def test_attention_mil_reads_all_patches():
    images = batch()
    with pytest.raises(ValueError, match="reads all patches and draws none"):
        JSMAInferer(Certified(3))(images.thumbnails, mil_net(), pyramid=images)


@torch.no_grad()
def test_the_inferer_hands_cap_and_chunk_on():
    net, source = table_net(seed=1, cells=[25], classes=3, size=32, attention="flat")
    inferer, read = JSMAInferer(Certified(7, chunk=3)), count_reads(source)
    assert inferer(source.thumbnails, net, source, return_attention=True)["cells"].shape == (1, 7)
    assert read == [3, 3, 1]
