# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What can be set on JSMANet, what it does, and the errors that say how to set it."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import Pictures, pictures, tiny_net
from torch import nn

from monai_jsma.inferers import JSMAInferer
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import ConvBackbone

TIMM = "test_resnet"


def timm_net(**options):
    options = {"thumbnail_backbone": TIMM, "patch_backbone": None, "patch_size": 32, **options}
    return tiny_net(**options)


def batch(*sizes):
    images = Pictures(pictures(*(sizes or ((24, 20), (40, 33)))))
    return images.thumbnails(), images


class BatchNormBackbone(nn.Sequential):
    num_features = 16

    def __init__(self):
        super().__init__(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())


@pytest.mark.parametrize("told", [True, False])
def test_frozen_norms_keep_their_statistics_and_training_agrees_with_evaluation(told):
    backbones = {"thumbnail_backbone": BatchNormBackbone(), "patch_backbone": BatchNormBackbone()}
    net = tiny_net(freeze_norm=True, estimator="systematic", num_patches=31, **backbones)
    norm = net.patch_backbone.model[1]
    norm.running_mean.uniform_(-1, 1)
    before = norm.running_mean.clone()
    trained = (net.train() if told else net)(*batch())
    assert net.training
    assert torch.equal(norm.running_mean, before)
    torch.testing.assert_close(trained, net.eval()(*batch(), num_patches="all"), rtol=1e-4, atol=1e-5)


def test_free_norms_follow_what_is_sampled():
    net = tiny_net(patch_backbone=BatchNormBackbone())
    before = net.patch_backbone.model[1].running_mean.clone()
    net(*batch())
    assert not torch.equal(net.patch_backbone.model[1].running_mean, before)


def test_classifier_dropout_only_in_training():
    net = tiny_net(dropout=0.5, estimator="systematic", num_patches=31)
    assert not torch.allclose(net(*batch()), net(*batch()))
    net.eval()
    assert torch.equal(net(*batch()), net(*batch()))


def test_attention_dropout_only_in_training():
    """A rate of 1 leaves as many cells as are drawn: any of them, at its share of what is left."""
    net = tiny_net(attention_dropout=1.0, estimator="systematic")
    drawn = set()
    for seed in range(5):
        torch.manual_seed(seed)
        output = net(*batch(), return_attention=True)
        prob = output["attention"].gather(1, output["cells"])
        torch.testing.assert_close(output["weights"], prob / prob.sum(1, keepdim=True))
        torch.testing.assert_close(output["attention"].sum(1), torch.ones(2))  # undropped, as it is regularised
        drawn.add(tuple(sorted(output["cells"][1].tolist())))
    assert len(drawn) == 5
    top = net.eval()(*batch(), return_attention=True)
    assert torch.equal(top["cells"], top["attention"].topk(3).indices)


def test_l2_features_have_length_one():
    net, patches = tiny_net(feature_norm="l2"), torch.rand(5, 3, 8, 8)
    features, plain = net.encode(patches), tiny_net(patch_backbone=net.patch_backbone.model).encode(patches)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(features, plain / plain.norm(dim=1, keepdim=True))


def test_channels_last_gives_the_same_outputs_and_gradients():
    image = torch.stack(pictures((24, 20), (24, 20)))
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        net = tiny_net().to(memory_format=memory_format)
        torch.manual_seed(0)
        output = net(image, return_attention=True)
        JSMALoss()(output, torch.tensor([0, 2])).backward()
        found.append([output["logits"], output["attention"], *(p.grad for p in net.parameters())])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other)


def test_shared_backbone():
    net = tiny_net(shared_backbone=True, patch_backbone=None, thumbnail_backbone=ConvBackbone((8,)))
    assert net.patch_backbone is net.thumbnail_backbone
    apart = timm_net()
    assert apart.patch_backbone.model is not apart.thumbnail_backbone.model
    count = sum(p.numel() for p in net.parameters())
    assert count == sum(p.numel() for p in ConvBackbone((8,)).parameters()) + 2 * 9 + 3 * 9


@pytest.mark.parametrize("shared", [True, False])
def test_load_weights_fills_both_backbones_and_nothing_else(shared, tmp_path):
    donor = timm_net().thumbnail_backbone.model
    for parameter in donor.parameters():
        nn.init.normal_(parameter)
    path = str(tmp_path / "weights.pth")
    torch.save(donor.state_dict(), path)
    net = timm_net(shared_backbone=shared)
    head = net.classifier.weight.clone()
    assert net.load_weights(None) is net
    first = donor.state_dict()["conv1.0.weight"]
    assert not torch.equal(net.patch_backbone.state_dict()["model.conv1.0.weight"], first)
    assert net.load_weights(path) is net
    for backbone in (net.thumbnail_backbone, net.patch_backbone):
        for name, value in donor.state_dict().items():
            assert torch.equal(backbone.state_dict()[f"model.{name}"], value)
    assert torch.equal(net.classifier.weight, head)
    built = timm_net(weights=path)
    assert torch.equal(built.patch_backbone.state_dict()["model.conv1.0.weight"], first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", ["pathwise", "leave_one_out", "prefix"])
def test_half_precision_trains_with_finite_gradients(dtype, rule):
    net = tiny_net(learning_rule=rule)
    thumbnails, images = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(thumbnails.to(dtype), images, return_attention=True)
        loss = JSMALoss()(output, torch.tensor([0, 2]))
    loss.backward()
    assert output["log_attention"].dtype == loss.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("rule", ["pathwise", "leave_one_out", "prefix"])
def test_every_part_learns(rule):
    net = tiny_net(learning_rule=rule, estimator="systematic")
    JSMALoss()(net(*batch(), return_attention=True), torch.tensor([0, 2])).backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_same_seed_same_training_pass():
    net = tiny_net(attention_dropout=0.3, dropout=0.5)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(net(*batch(), return_attention=True))
    assert torch.equal(runs[0]["logits"], runs[1]["logits"])
    assert not torch.equal(runs[0]["cells"], runs[2]["cells"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rule": "reinforce"}, "unknown learning_rule 'reinforce'; choose one of pathwise, leave_one_out"),
        ({"estimator": "best"}, "unknown estimator 'best'; choose one of paper"),
        ({"feature_norm": "l1"}, "unknown feature_norm 'l1'; choose one of None, l2"),
        ({"normalization": "max"}, "unknown normalization 'max'"),
        ({"level_prior": "flat"}, "unknown level_prior 'flat'"),
        ({"learning_rule": "leave_one_out", "num_patches": 1}, "num_patches must be at least 2"),
        ({"centered": True, "num_patches": 1}, "num_patches must be at least 2"),
        ({"num_patches": 0}, "num_patches 0 must be at least 1"),
        ({"num_classes": 1}, "num_classes 1 must be at least 2"),
        ({"shared_backbone": True}, "leave patch_backbone out"),
        ({"patch_backbone": None}, "one module was given for both backbones; give two, or pass shared_backbone=True"),
        ({"weights": "imagenet"}, "a module brings its own weights"),
        ({"magnifications": ("tenfold",)}, "'tenfold' is no magnification"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_net(**options)


@pytest.mark.parametrize(
    "call",
    [
        {"num_patches": 0}, {"num_patches": "most"}, {"num_patches": -1}, {"draws": -1},
        {"num_patches": "all", "draws": 2},
    ],
)  # fmt: skip
def test_errors_of_a_call(call):
    with pytest.raises(ValueError, match="num_patches must be|draws must not"):
        JSMAInferer(**call)
    with pytest.raises(ValueError, match="num_patches must be a positive number and draws not negative, or 'all' or"):
        tiny_net().eval()(*batch(), **call)


def test_magnifications_are_kept_coarse_to_fine():
    assert [m.mpp for m in tiny_net(magnifications=(0.5, "50X", 1.0)).magnifications] == [2.0, 1.0, 0.5]


def test_pictures_of_other_magnifications():
    with pytest.raises(ValueError, match="attends to 1 magnifications, but the pictures have 2"):
        tiny_net(magnifications=("100X",))(*batch())


def test_inferer_passes_its_settings_and_the_rest_on():
    def network(*args, **kwargs):
        return args, kwargs

    assert JSMAInferer(4, 3)("image", network, "more", pyramid="p") == (
        ("image", "more"),
        {"num_patches": 4, "draws": 3, "pyramid": "p"},
    )
    net = tiny_net().eval()
    thumbnails, images = batch()
    top = JSMAInferer(5)(thumbnails, net, images, return_attention=True)
    assert top["cells"].shape == (2, 5)
