# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Feature extractors: input normalisation, weights that are right or refused, maps as the network expects them."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.networks import Backbone, ConvBackbone, JSMANet, PatchEncoder, Pathwise, build_backbone

timm = importlib.import_module("timm")  # only now: monai_jsma.networks makes it importable
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


def test_a_module_that_states_nothing_gets_images_from_minus_one_to_one():
    module = Given(torch.zeros(1, 7, 1, 1))
    build_backbone(module, None)(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1))
    torch.testing.assert_close(module.images.flatten(), torch.tensor([-1.0, -0.6, 1.0]))


class Stating(Given):
    """A module that states how its input is normalized."""

    def __init__(self, mean, std):
        super().__init__(torch.zeros(1, 7, 1, 1))
        self.mean = mean
        self.std = std


def seen_by(module, encoder):
    """What a module gets of a black, a gray and a white pixel."""
    encoder(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1))
    return module.images.flatten()


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_module_gets_what_it_states(as_tensor):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.2)
    stated = [torch.tensor(values) if as_tensor else values for values in (mean, std)]
    module = Stating(*stated)
    expected = (torch.tensor([0, 0.2, 1]) - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(seen_by(module, build_backbone(module, None)), expected)


def test_a_timm_model_gets_what_its_configuration_states():
    model = timm.create_model("test_efficientnet", num_classes=0, global_pool="")
    wrapped = nn.Sequential(model)
    wrapped.num_features = model.num_features
    config = model.pretrained_cfg
    for module in (model, wrapped):
        backbone = build_backbone(module, None)
        assert tuple(backbone.mean.flatten().tolist()) == pytest.approx(config["mean"])
        assert tuple(backbone.std.flatten().tolist()) == pytest.approx(config["std"])
    other = nn.Sequential(model, timm.create_model(NAME, num_classes=0))
    other.num_features = 7
    with pytest.raises(ValueError, match="parts of Sequential state different normalizations"):
        build_backbone(other, None)


def test_a_backbone_is_not_normalized_twice():
    module = Stating((0.1, 0.2, 0.3), (0.5, 0.4, 0.2))
    inner = build_backbone(module, None)
    once = seen_by(module, inner)
    with pytest.raises(ValueError, match="is a Backbone, which normalizes its input already: give it as it is"):
        Backbone(inner, 7)
    wrapped = nn.Sequential(inner, nn.Identity())
    wrapped.num_features = 7
    torch.testing.assert_close(seen_by(module, build_backbone(wrapped, None)), once)
    torch.testing.assert_close(seen_by(module, PatchEncoder(wrapped)), once)


def test_normalizations_that_are_not_clear():
    holds_buffers = Given()
    holds_buffers.register_buffer("mean", torch.zeros(3))
    holds_buffers.register_buffer("std", torch.ones(3))
    normalizes = nn.Sequential(Stating((0.5,) * 3, (0.5,) * 3), Given())  # as torchvision's Normalize is
    normalizes.num_features = 7
    for module in (holds_buffers, normalizes):
        with pytest.raises(ValueError, match=r"if it normalizes its input itself, give .*mean=\(0, 0, 0\)"):
            build_backbone(module, None)
    for mean, std in [((0.5,), (0.5,)), (0.5, 0.5), ((0.5,) * 3, (1.0, 0.0, 1.0)), ("abc", "abc")]:
        with pytest.raises(ValueError, match="not one of three channels"):
            build_backbone(Stating(mean, std), None)


def test_a_module_that_states_nothing_is_named_once(caplog):
    class Silent(Given):
        pass

    for _ in range(2):
        build_backbone(Silent(), None)
        build_backbone(ConvBackbone(), None)
    (record,) = caplog.records
    assert "Silent states no normalization of its input" in record.getMessage()
    assert "from -1 to 1" in record.getMessage()


@pytest.mark.parametrize(
    ("scale", "shift", "message"),
    [
        (255, 0, "these reach 255: divide images of 0..255 by 255"),
        (3, 0, "these reach 3: divide"),
        (2, -1, "these begin at -1: leave out the normalization"),
        (4.5, -2.1, "these begin at -2.1: leave out"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_float_images_outside_0_to_1_are_refused(scale, shift, message, dtype):
    images = torch.rand(2, 3, 32, 32)
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    images = (images * scale + shift).to(dtype)
    network = JSMANet(3, (2.0, 1.0), weights=None, thumbnail_encoder=NAME, patch_size=32, thumbnail_size=(32, 32))
    for call in (network.eval(), network.thumbnail_encoder, network.patch_encoder):
        with pytest.raises(ValueError, match=f"float images must be in .0, 1., but {message}"):
            call(images)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.bool])
def test_integers_other_than_bytes_are_refused(dtype):
    with pytest.raises(ValueError, match=rf"images of {dtype}: give uint8, or floats in \[0, 1\]"):
        build_backbone(ConvBackbone(), None)(torch.ones(1, 3, 8, 8, dtype=dtype))
    with pytest.raises(ValueError, match=rf"images of {dtype}: give uint8, or floats in \[0, 1\]"):
        TensorPyramidBatch(torch.ones(1, 3, 8, 8, dtype=dtype), (1.0,), 8)


@pytest.mark.parametrize("value", [0.0, 1 / 255, 1.0, 1.05, -0.05])
def test_constant_images_and_a_little_overshoot_are_taken(value):
    images = torch.full((1, 3, 8, 8), value)
    assert build_backbone(ConvBackbone(), None)(images).isfinite().all()
    assert TensorPyramidBatch(images, (1.0,), 8).grids


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


@pytest.mark.parametrize(
    ("shape", "pooled"),
    [((2, 7), False), ((2, 5, 4, 4), False), ((2, 16, 7), False), ((2, 16, 7), True), ((2, 5), True)],
)
def test_output_that_is_no_map(shape, pooled):
    with pytest.raises(ValueError, match=r"Given gave features of shape .* must give a map \(batch, 7, "):
        Backbone(Given(torch.zeros(shape)), 7, pooled=pooled)(torch.rand(2, 3, 8, 8))


def test_vectors_are_maps_of_one_place_where_the_mean_is_wanted():
    vectors = torch.rand(2, 7)
    features = build_backbone(Given(vectors), None, pooled=True)(torch.rand(2, 3, 8, 8))
    assert torch.equal(features, vectors[:, :, None, None])


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


def stand_in(folder, **options):
    """A tiny foundation model in a folder as the hub has them: weights, and what the name does not tell of it."""
    settings = {"init_values": 0.5, "img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "reg_tokens": 2}
    donor = timm.create_model("test_vit", num_classes=0, **settings, **options).eval()
    nn.init.normal_(donor.cls_token)
    timm.models.save_for_hf(donor, folder, model_args=settings | options, safe_serialization="both")
    return donor, f"local-dir:{folder}"


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_of_a_foundation_model_f_takes_the_embedding_and_h_the_map(tmp_path, pool, weights):
    donor, name = stand_in(tmp_path, global_pool=pool)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        tokens = donor.forward_features((images - 0.5) / 0.5)
        reference = tokens[:, 0] if pool == "token" else donor.fc_norm(tokens[:, 3:].mean(dim=1))
        for path in ("imagenet", str(tmp_path / weights)):
            f = build_backbone(name, path, pooled=True).eval()
            torch.testing.assert_close(f(images), reference[:, :, None, None])
        h = build_backbone(name, "imagenet").eval()
        assert h(images).shape == (2, 24, 2, 2)
    assert f.num_features == h.num_features == 24


def test_h_and_a_frozen_foundation_model_have_weights_of_their_own(tmp_path):
    donor, name = stand_in(tmp_path / "f")
    other = timm.create_model(NAME)
    torch.save(other.state_dict(), tmp_path / "h.pth")
    weights = {"thumbnail_backbone": str(tmp_path / "h.pth"), "patch_backbone": "imagenet"}
    options = {"thumbnail_encoder": NAME, "patch_size": 32, "thumbnail_size": (32, 32), "sampler": Pathwise(2)}

    def make(weights, of_patches=None):
        encoder = PatchEncoder(name, weights=of_patches, frozen=True)
        return JSMANet(3, (2.0, 1.0), weights=weights, patch_encoder=encoder, **options)

    network = make(weights, "imagenet")
    by_name = JSMANet(3, (2.0, 1.0), weights=weights, patch_encoder=name, **options)
    for made in (network, by_name, make(None).load_weights(weights)):
        assert torch.equal(made.thumbnail_encoder.model.conv1[0].weight, other.conv1[0].weight)
        assert torch.equal(made.patch_encoder.backbone.model.cls_token, donor.cls_token)
    network(torch.rand(2, 3, 64, 96)).sum().backward()
    learning = {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert learning == {"thumbnail_encoder", "attention", "classifier"}
    with pytest.raises(ValueError, match="weights of f, h: there are only thumbnail_backbone and patch_backbone"):
        network.load_weights({"h": None, "f": None})


def test_foundation_models_that_do_not_do(monkeypatch, tmp_path):
    torch.save(timm.create_model("test_vit", init_values=0.5).state_dict(), tmp_path / "scaled.pth")
    more = timm.create_model("test_vit").state_dict() | {"reg_token": torch.zeros(1, 2, 64)}
    torch.save(more, tmp_path / "more.pth")
    for file, part in (("scaled.pth", "blocks.0.ls1.gamma"), ("more.pth", "reg_token")):
        with pytest.raises(
            RuntimeError, match=rf"{file}' are not those of 'test_vit', which lacks .* such as '{part}'"
        ):
            build_backbone("test_vit", str(tmp_path / file))
    with pytest.raises(ValueError, match=r"'local-dir:.*absent' cannot be made: .*config.json"):
        build_backbone(f"local-dir:{tmp_path / 'absent'}", None)
    with pytest.raises(ValueError, match="unknown backbone 'hub:owner/model': before ':' stands hf-hub or local-dir"):
        build_backbone("hub:owner/model", None)
    _, name = stand_in(tmp_path, dynamic_img_size=False)
    with pytest.raises(ValueError, match=r"takes no images of 40 x 32 pixels: .* Set 'patch_size'"):
        build_backbone(name, "imagenet", pooled=True)(torch.rand(1, 3, 40, 32))
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(RuntimeError, match="'imagenet' could not be loaded into 'hf-hub:owner/model'"):
        build_backbone("hf-hub:owner/model", "imagenet")
