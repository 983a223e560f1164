# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Magnifications chosen by rule, against the rule written out, and networks with any number of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import PATCH, pictures, tiny_net

from monai_jsma.data import Magnification, PatchGeometry, TensorPyramidBatch, automatic_magnifications, to_mpp
from monai_jsma.networks import AllPatches, Certified, JSMANet, Pathwise
from monai_jsma.transforms import LoadPyramid

sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
spacings = st.floats(0.05, 20)


def by_hand(size: tuple[int, int], mpp: float, patch: int) -> list[float]:
    """Halve the picture until both sides fit a patch."""
    found, (height, width) = [mpp], size
    for halvings in range(1, 64):
        if height <= patch and width <= patch:
            break
        height, width = (max(1, round(side / 2**halvings)) for side in size)
        found.insert(0, mpp * 2**halvings)
    return found


@pytest.mark.parametrize(
    ("size", "mpp", "patch", "expected", "grids"),
    [
        ((1536, 2048), 0.42, 299, (3.36, 1.68, 0.84, 0.42), ((1, 1), (2, 2), (3, 4), (6, 7))),  # BACH
        ((2000, 2000), 1.0, 299, (8.0, 4.0, 2.0, 1.0), ((1, 1), (2, 2), (4, 4), (7, 7))),  # TCGA-PRAD
        ((1536, 2048), 0.42, 256, (3.36, 1.68, 0.84, 0.42), ((1, 1), (2, 2), (3, 4), (6, 8))),
        ((299, 299), 0.42, 299, (0.42,), ((1, 1),)),
        ((299, 300), 0.42, 299, (0.84, 0.42), ((1, 1), (1, 2))),
        ((20, 30), "100X", 299, (1.0,), ((1, 1),)),
        ((1, 9), 1, 1, (8.0, 4.0, 2.0, 1.0), ((1, 1), (1, 2), (1, 4), (1, 9))),
    ],
)
def test_known_pictures(size, mpp, patch, expected, grids):
    """BACH and TCGA-PRAD get what the paper chose, and one more, which shows all of the picture."""
    found = automatic_magnifications(size, mpp, patch)
    assert found == expected
    assert PatchGeometry(size, to_mpp(mpp), found, patch).grids == grids


def test_a_slide():
    found = automatic_magnifications((80_000, 100_000), 0.25, 299)
    geometry = PatchGeometry((80_000, 100_000), 0.25, found, 299)
    assert (len(found), found[0], geometry.grids[:3]) == (
        10,
        128.0,
        ((1, 1), (2, 2), (3, 3)),
    )  # 781 = 3 x 299 - 116 pixels
    assert geometry.names[:2] == ("0.78125X", "1.5625X")
    assert automatic_magnifications((80_000, 100_000), 0.25, 299, finest="100X") == found[:-2]
    assert automatic_magnifications((20_000, 25_000), 1.0, 299) == found[:-2]


@settings(deadline=None, max_examples=300)
@given(sizes, spacings, st.integers(1, 400))
def test_the_rule(size, mpp, patch):
    found = automatic_magnifications(size, mpp, patch)
    assert found == tuple(by_hand(size, mpp, patch))
    geometry = PatchGeometry(size, mpp, found, patch)
    assert geometry.grids[0] == (1, 1)
    assert (1, 1) not in geometry.grids[1:]
    assert found[-1] == mpp
    assert all(coarse / fine == 2 for coarse, fine in zip(found, found[1:]))


@settings(deadline=None)
@given(sizes, spacings, st.sampled_from([0.25, 1, 2.5, "100X"]), st.integers(8, 400))
def test_the_finest_need_not_be_that_of_the_file(size, mpp, finest, patch):
    found = automatic_magnifications(size, mpp, patch, finest=finest)
    grids = PatchGeometry(size, mpp, found, patch).grids
    assert found[-1] == to_mpp(finest)
    assert (grids[0], grids.count((1, 1))) == ((1, 1), 1)
    assert len(found) == 1 + math.log2(found[0] / found[-1])


@settings(deadline=None)
@given(spacings | st.integers(-8, 8).map(lambda n: 2 ** (n / 2)), st.integers(1, 16))
def test_each_doubling_has_a_name_of_its_own(mpp, levels):
    doublings = [mpp * 2.0**j for j in range(levels)]
    names = PatchGeometry((9, 9), mpp, doublings, 4).names[::-1]
    for spacing, name in zip(doublings, names, strict=True):
        assert to_mpp(name) / math.sqrt(2.0001) <= spacing <= to_mpp(name) * math.sqrt(2.0001)
        assert Magnification(to_mpp(name)).name == name
    assert [to_mpp(n) for n in names] == pytest.approx([to_mpp(names[0]) * 2.0**j for j in range(levels)])


@pytest.mark.parametrize("size", [None, 9, (9,), (9, 9, 9), "99", ("9", "9"), (0, 9), (9, -1), (9, math.nan)])
def test_what_is_no_size(size):
    with pytest.raises(ValueError, match="size must be the height and width of the images"):
        automatic_magnifications(size, 1.0, 4)


@pytest.mark.parametrize("mpp", [None, [], "", "fine", 0, -0.5, math.nan, math.inf])
def test_what_is_no_spacing(mpp):
    for given_as in ({"mpp": mpp}, {"mpp": 1.0, "finest": mpp}):
        if given_as.get("finest", 0) is not None:
            with pytest.raises(ValueError, match="is no magnification: give um per pixel|must be a positive number"):
                automatic_magnifications((9, 9), patch_size=4, **given_as)


def test_what_is_no_patch():
    with pytest.raises(ValueError, match="patch_size 0 must be positive"):
        automatic_magnifications((9, 9), 1.0, 0)


@pytest.mark.parametrize("magnifications", ["auto", "100X", None, 1.0])
def test_magnifications_that_are_no_list_are_refused_with_the_way_out(magnifications):
    """By all that take them, and where they are given, not where a file is read."""
    message = "magnifications must be a list .*automatic_magnifications chooses"
    with pytest.raises(ValueError, match=message):
        PatchGeometry((9, 9), 1.0, magnifications, 4)
    with pytest.raises(ValueError, match=message):
        LoadPyramid(magnifications)
    with pytest.raises(ValueError, match=message):
        TensorPyramidBatch(torch.rand(1, 3, 9, 9), magnifications, 4)
    with pytest.raises(ValueError, match=message):
        tiny_net(magnifications=magnifications)


@pytest.mark.parametrize("magnifications", [(), (1.0, "100X")])
def test_a_network_has_different_magnifications(magnifications):
    with pytest.raises(ValueError, match="magnifications must be different and at least one"):
        tiny_net(magnifications=magnifications)


def network(size: tuple[int, int], **options) -> JSMANet:
    """For pictures of a size."""
    return tiny_net(magnifications=automatic_magnifications(size, 1.0, PATCH), **options)


@pytest.mark.parametrize(("side", "levels"), [(8, 1), (16, 2), (128, 5), (512, 7)])
@pytest.mark.parametrize("aligned", [False, True])
def test_any_number_of_levels_looks_at_pictures_of_any_size(side, levels, aligned):
    """Those of the training, half and twice as large, and smaller than a patch; cells as the geometry says."""
    net = network((side, side), aligned=aligned, sampler=Pathwise(4)).eval()
    assert len(net.magnifications) == len(net.attention.logits) == levels
    for shape in ((side, side), (side // 2, side // 2 + 1), (2 * side + 3, side), (5, 3)):
        image = torch.stack(pictures(shape))
        output = net(image, return_attention=True)
        geometry = PatchGeometry(shape, 1.0, net.magnifications, PATCH, aligned)
        assert output["attention"].shape == (1, geometry.num_cells)
        assert output["attention"].sum().item() == pytest.approx(1, abs=1e-5)
        assert (output["weights"] > 0).sum() == min(4, geometry.num_cells)
        assert output["logits"].isfinite().all()


def test_every_level_learns():
    net = network((8, 128), sampler=AllPatches())
    net(torch.stack(pictures((8, 128), (8, 128))))[:, 0].sum().backward()
    assert [bool(conv.weight.grad.abs().sum() > 0) for conv in net.attention.logits] == [True] * 5


@pytest.mark.parametrize("aligned", [False, True])
def test_certified_labels_are_those_of_all_patches(aligned):
    net = network((8, 128), feature_norm="l2", aligned=aligned).eval()
    torch.nn.init.normal_(net.classifier.weight, std=2.0)
    images = torch.stack(pictures(*[(8, 128)] * 4))
    everything = net(images, sampler=AllPatches())
    output = net(images, return_attention=True, sampler=Certified(chunk=4))
    certain = output["certified"]
    assert certain.any()
    assert torch.equal(output["logits"].argmax(1)[certain], everything.argmax(1)[certain])
    low, high = output["intervals"].unbind(dim=2)
    assert ((low <= everything.softmax(1) + 1e-6) & (everything.softmax(1) <= high + 1e-6)).all()


def test_weights_keep_their_magnifications():
    net = network((32, 32))
    state = net.state_dict()
    assert state["spacings"].tolist() == [4.0, 2.0, 1.0]
    assert network((32, 32)).load_state_dict(state).missing_keys == []
    assert tiny_net(magnifications=("25X", "50X", 1.002)).double().load_state_dict(state).unexpected_keys == []
    for other in ((2.0, 1.0), (8.0, 4.0, 2.0), (4.0, 2.0, 1.0, 0.5), (3.36, 1.68, 0.84)):
        with pytest.raises(
            ValueError, match="trained with magnifications of 4, 2, 1 um per pixel, but the network has"
        ):
            tiny_net(magnifications=other).load_state_dict(state)


def test_weights_from_before_magnifications_were_kept():
    old = {name: value for name, value in network((32, 32)).state_dict().items() if name != "spacings"}
    fresh = network((32, 32))
    fresh.load_state_dict(old)
    assert fresh.spacings.tolist() == [4.0, 2.0, 1.0]
    assert "spacings" not in old
