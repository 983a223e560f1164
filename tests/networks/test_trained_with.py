# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What travels with the weights: names of the classes and settings, checked wherever weights are loaded."""

from __future__ import annotations

import logging

import pytest
import torch
from monai.networks.utils import copy_model_state
from tiny_networks import mil_net, tiny_net
from torch import nn

from monai_jsma.networks import ConvBackbone, PatchEncoder, Pathwise, TopK, read_class_names

NAMES = ["benign", "Gleason 3", "Gleason 4/5"]
NETWORKS = [tiny_net, mil_net]


def without_settings(state):
    return {name: value for name, value in state.items() if name != "trained_with"}


@pytest.mark.parametrize("make", NETWORKS)
def test_class_names_come_with_the_weights(make, tmp_path):
    torch.save(make(class_names=NAMES).state_dict(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    network = make()
    assert network.class_names is None
    network.load_state_dict(state)
    assert network.class_names == NAMES
    assert read_class_names(nn.DataParallel(network)) == NAMES
    assert read_class_names(nn.Linear(1, 1)) is None
    assert read_class_names(nn.Linear(1, 1), NAMES) == read_class_names(network, tuple(NAMES)) == NAMES
    with pytest.raises(ValueError, match="the outputs would get wrong names"):
        read_class_names(network, NAMES[::-1])

    by_monai = make()
    copy_model_state(by_monai, state)  # what monai.bundle.load does
    assert by_monai.class_names == NAMES


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("other", [NAMES[::-1], ["benign", "gleason 3", "Gleason 4/5"], ["a", "b", "c"]])
def test_classes_in_another_order_or_of_other_names_are_refused(make, other):
    state = make(class_names=NAMES).state_dict()
    network = make(class_names=other)
    for load in (network.load_state_dict, lambda state: copy_model_state(network, state)):
        with pytest.raises(ValueError, match=r"trained with the classes \['benign', .*\], but the datalist .* has \['"):
            load(state)
    network.load_state_dict(without_settings(state))  # renamed on purpose
    assert network.class_names == other


def test_weights_without_names_take_those_of_the_network_and_say_so(caplog):
    old = without_settings(tiny_net().state_dict())
    network = tiny_net(class_names=NAMES)
    for state in (old, tiny_net().state_dict()):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            network.load_state_dict(state)
        assert "the weights do not state the names of their classes" in caplog.text
        assert network.class_names == NAMES
    caplog.clear()
    tiny_net().load_state_dict(old)
    assert not caplog.records
    assert "trained_with" not in old


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"], ["a", "b", "a"], ["a", "b", 3], "abc"])
def test_names_that_do_not_fit_the_classes(names):
    with pytest.raises(ValueError, match=r"class_names|name of its own"):
        tiny_net(class_names=names)


def test_names_longer_than_the_weights_hold():
    with pytest.raises(ValueError, match="at most 16384 are kept with the weights: give the classes shorter names"):
        tiny_net(class_names=["ä" * 9000, "b", "c"])
    assert tiny_net(class_names=["ä" * 2000, "日本", "\ud800"]).class_names == ["ä" * 2000, "日本", "\ud800"]


def module_of_other_input():
    module = ConvBackbone((8, 16))
    module.mean = (0.7, 0.5, 0.7)
    return module


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_norm": "l2"}, "feature_norm = 'None', but the network has 'l2'"),
        ({"patch_size": 16}, "patch_size = 8, but the network has 16"),
        ({"aligned": True}, "aligned = False, but the network has True"),
        ({"normalization": "softmax"}, "normalization = 'sigmoid', but the network has 'softmax'"),
        ({"level_prior": "balanced"}, "level_prior = 'None', but the network has 'balanced'"),
        ({"patch_encoder": module_of_other_input()}, r"patch_input = \[\[0.5, .*, but the network has \[\[0.7, 0.5"),
    ],
)
def test_settings_that_change_the_meaning_of_the_weights_are_refused(options, message):
    network = tiny_net(**options)
    with pytest.raises(ValueError, match=f"the weights were trained with {message}.*would be wrong"):
        network.load_state_dict(tiny_net().state_dict())
    network.load_state_dict(without_settings(tiny_net().state_dict()))  # of an earlier version


def test_another_number_of_classes_is_refused_where_monai_copies_what_fits():
    """monai.bundle.load leaves out what has another shape: the classifier would stay random."""
    network = tiny_net(num_classes=4)
    with pytest.raises(ValueError, match="num_classes = 3, but the network has 4"):
        copy_model_state(network, tiny_net().state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thumbnail_size": (24, 16)}, "thumbnail_size = [16, 16], but the network has [24, 16]"),
        ({"sampler": Pathwise(3, estimator="normalized")}, "bag_weights = 'P', but the network has 'P / sum P'"),
    ],
)
def test_settings_that_may_differ_are_logged(options, message, caplog):
    network = tiny_net(**options)
    with caplog.at_level(logging.WARNING):
        network.load_state_dict(tiny_net().state_dict())
    assert f"the weights were trained with {message}: its predictions will differ" in caplog.text
    caplog.clear()
    tiny_net(sampler=Pathwise(7)).load_state_dict(tiny_net().state_dict())  # another number of patches is a choice
    assert not caplog.records


def test_weights_of_an_earlier_version_met_modules_normalized_with_one_half(caplog):
    old = without_settings(tiny_net().state_dict())
    tiny_net(patch_encoder=module_of_other_input()).load_state_dict(old)
    assert "how the input of the patch encoder, a module, was normalized" in caplog.text
    assert "[[0.7, 0.5, 0.7], [0.5, 0.5, 0.5]]" in caplog.text


def test_patches_that_are_weighed_otherwise_than_in_training_are_told_once(caplog):
    network = tiny_net(sampler=Pathwise(3, estimator="paper")).eval()
    images = torch.rand(1, 3, 24, 20)
    network(images)
    network(images, sampler=TopK(2, normalize=False))
    assert not caplog.records
    for _ in range(2):
        network(images, sampler=TopK(2))
    (record,) = caplog.records
    assert "whose predictions are those of TopK(2, normalize=False)" in record.getMessage()


def test_a_folder_of_weights_is_not_kept(tmp_path):
    encoder = PatchEncoder(ConvBackbone((8,)))
    encoder.backbone.name = f"local-dir:{tmp_path}"
    assert encoder.describe()["patch_backbone"] == "local-dir"
