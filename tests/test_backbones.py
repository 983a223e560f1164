# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Feature extractors: input normalisation, weights that are right or refused, maps as the network expects them."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from monai_jsma._torchvision import ensure_torchvision
from monai_jsma.networks import Backbone, ConvBackbone, build_backbone

ensure_torchvision()
timm = importlib.import_module("timm")  # only now
NAME = "test_resnet"  # timm's own small model for tests, 96 channels at 1/32


class Given(nn.Module):
    """Gives what it is told to, and keeps what it was given."""

    num_features = 7

    def __init__(self, output=None):
        super().__init__()
        self.output = output

    def forward(self, images):
        self.images = images
        return self.output


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("num_classes", [0, 11])
def test_weights_of_a_file_are_those_of_the_model(tmp_path, suffix, num_classes):
    """A timm checkpoint, with or without its classifier, gives the features that timm's model gives."""
    donor = timm.create_model(NAME, num_classes=num_classes).eval()
    path = str(tmp_path / f"weights.{suffix}")
    if suffix == "pth":
        torch.save(donor.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file(donor.state_dict(), path)
    backbone = build_backbone(NAME, path).eval()
    images = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        features, reference = backbone(images), donor.forward_features((images - 0.5) / 0.5)
    assert features.shape == (2, 96, 3, 2)
    assert backbone.num_features == 96
    torch.testing.assert_close(features, reference)
    assert not torch.equal(build_backbone(NAME, None).eval()(images), features)


def test_normalisation_is_the_models_own_and_the_same_for_bytes_and_floats():
    backbone = build_backbone("test_efficientnet", None).eval()
    config = timm.get_pretrained_cfg("test_efficientnet")
    assert config.mean[0] != config.mean[2]
    images = torch.randint(256, (2, 3, 32, 64), dtype=torch.uint8)
    mean, std = torch.tensor(config.mean).view(3, 1, 1), torch.tensor(config.std).view(3, 1, 1)
    with torch.no_grad():
        reference = backbone.model((images / 255 - mean) / std)[-1]
        torch.testing.assert_close(backbone(images), reference)
        torch.testing.assert_close(backbone(images / 255), reference)
    assert not {"mean", "std"} & set(backbone.state_dict())  # they belong to the name, not to the checkpoint


def test_a_module_gets_images_from_minus_one_to_one():
    module = Given(torch.zeros(1, 7, 1, 1))
    build_backbone(module, None)(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1))
    torch.testing.assert_close(module.images.flatten(), torch.tensor([-1.0, -0.6, 1.0]))


def test_conv_backbone():
    backbone = build_backbone(ConvBackbone((8, 16, 24)), None)
    assert backbone.num_features == 24
    images = torch.rand(3, 3, 32, 40)
    features = backbone(images)
    assert features.shape == (3, 24, 8, 10)
    torch.testing.assert_close(features[:1], backbone(images[:1]))  # no statistics of the batch


def test_channels_last_maps_are_turned():
    last = torch.arange(2 * 5 * 4 * 7.0).view(2, 5, 4, 7)
    assert torch.equal(build_backbone(Given(last), None)(torch.rand(2, 3, 8, 8)), last.permute(0, 3, 1, 2))
    first = torch.rand(2, 7, 4, 7)
    assert torch.equal(build_backbone(Given([last, first]), None)(torch.rand(2, 3, 8, 8)), first)  # list: the last map


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_mambaout"])
def test_other_architectures_give_maps(name):
    backbone = build_backbone(name, None).eval()
    features = backbone(torch.rand(1, 3, 160, 160))
    assert features.shape[:2] == (1, backbone.num_features)
    assert min(features.shape[2:]) > 1


@pytest.mark.parametrize("shape", [(2, 7), (2, 5, 4, 4), (2, 16, 7)])
def test_output_that_is_no_map(shape):
    with pytest.raises(ValueError, match=r"Given gave features of shape .* must give a map \(batch, 7, "):
        Backbone(Given(torch.zeros(shape)), 7)(torch.rand(2, 3, 8, 8))


def test_names_and_modules_that_do_not_do():
    with pytest.raises(ValueError, match=r"unknown backbone 'test_resnat': timm has no model .*test_resnet"):
        build_backbone("test_resnat", None)
    with pytest.raises(ValueError, match="unknown backbone 'nonsense'"):
        build_backbone("nonsense", None)
    with pytest.raises(ValueError, match="Conv2d lacks 'num_features'"):
        build_backbone(nn.Conv2d(3, 8, 3), None)
    with pytest.raises(ValueError, match="a module brings its own weights; pass weights=None instead of 'imagenet'"):
        build_backbone(ConvBackbone(), "imagenet")


def test_weights_that_do_not_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; give a path, 'imagenet' or None"):
        build_backbone(NAME, str(tmp_path / "absent.pth"))
    other = tmp_path / "other.pth"
    torch.save(timm.create_model("test_vit").state_dict(), other)
    with pytest.raises(RuntimeError, match=r"other.pth' are not those of 'test_resnet': (\d+) of \1 entries"):
        build_backbone(NAME, str(other))
    part = timm.create_model(NAME).state_dict()
    del part["layer4.0.conv1.weight"]
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(RuntimeError, match="part.pth' are not those of 'test_resnet': 1 of"):
        build_backbone(NAME, str(tmp_path / "part.pth"))


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "empty.pth", "cut.pth"])
def test_files_that_hold_no_weights(tmp_path, name):
    path = tmp_path / name
    if name == "cut.pth":
        torch.save(timm.create_model(NAME).state_dict(), path)
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.write_text("not weights" if name.startswith("text") else "")
    with pytest.raises(RuntimeError, match=f"{name}': no state dict can be read from this file"):
        build_backbone(NAME, str(path))


def test_imagenet_without_a_network_says_so(monkeypatch, tmp_path):
    """The hub is told to stay offline and its cache is empty: a download would be an error of another kind."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("the network was tried"))
    with pytest.raises(RuntimeError, match="'imagenet' could not be loaded into 'test_resnet'.*Give the path of a"):
        build_backbone(NAME, "imagenet")
