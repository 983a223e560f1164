# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What can be set on JSMANet, what it does, and the errors that say how to set it."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import Pictures, mil_net, pictures, tiny_net
from torch import nn

from monai_jsma.inferers import JSMAInferer
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import (
    AllPatches,
    ConvBackbone,
    Draws,
    LeaveOneOut,
    PatchEncoder,
    Pathwise,
    Prefix,
    TopK,
    build_backbone,
)

TIMM = "test_resnet"
SYSTEMATIC = Pathwise(31, estimator="systematic")
EACH_RULE = pytest.mark.parametrize("sampler", [Pathwise(3), LeaveOneOut(3), Prefix(3)], ids=repr)


def timm_net(**options):
    options = {"thumbnail_encoder": TIMM, "patch_encoder": None, "patch_size": 32, **options}
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
    backbones = {"thumbnail_encoder": BatchNormBackbone(), "patch_encoder": BatchNormBackbone()}
    net = tiny_net(freeze_norm=True, sampler=SYSTEMATIC, **backbones)
    norm = net.patch_encoder.backbone.model[1]
    norm.running_mean.uniform_(-1, 1)
    before = norm.running_mean.clone()
    trained = (net.train() if told else net)(*batch())
    assert net.training
    assert torch.equal(norm.running_mean, before)
    torch.testing.assert_close(trained, net.eval()(*batch(), sampler=AllPatches()), rtol=1e-4, atol=1e-5)


def test_free_norms_follow_what_is_sampled():
    net = tiny_net(patch_encoder=BatchNormBackbone())
    before = net.patch_encoder.backbone.model[1].running_mean.clone()
    net(*batch())
    assert not torch.equal(net.patch_encoder.backbone.model[1].running_mean, before)


def test_classifier_dropout_only_in_training():
    net = tiny_net(dropout=0.5, sampler=SYSTEMATIC)
    assert not torch.allclose(net(*batch()), net(*batch()))
    net.eval()
    assert torch.equal(net(*batch()), net(*batch()))


def test_attention_dropout_only_in_training():
    """A rate of 1 leaves as many cells as are drawn: any of them, at its share of what is left."""
    net = tiny_net(attention_dropout=1.0, sampler=Pathwise(3, estimator="systematic"))
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
    features, plain = net.patch_encoder(patches), PatchEncoder(net.patch_encoder.backbone)(patches)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images[0], r"have \(3, 24, 20\): make a batch of a single image \(image\[None\]\)"),
        (lambda images: images.permute(0, 2, 3, 1), r"put the colors first \(images.permute\(0, 3, 1, 2\)\)"),
        (lambda images: images[:, [0, 1, 2, 0]], r"lay RGBA on white, or leave alpha out"),
        (lambda images: images[:, :2], r"have \(2, 2, 24, 20\): give red, green and blue"),
    ],
)
@pytest.mark.parametrize("make", [tiny_net, mil_net])
def test_images_of_another_shape_are_refused_with_the_way_out(make, change, message):
    images = torch.rand(2, 3, 24, 20)
    network = make().eval()
    for call in (network, network.patch_encoder):
        with pytest.raises(ValueError, match=message):
            call(change(images))
    with pytest.raises(TypeError, match=r"but this is a ndarray; torch\.as_tensor"):
        network(images.numpy())


@pytest.mark.parametrize("make", [tiny_net, mil_net])
def test_images_of_other_forms_are_right(make):
    """Gray is repeated; doubles and images that lie otherwise in memory are the same images."""
    network = make().eval()
    gray = torch.rand(2, 1, 24, 20)
    torch.testing.assert_close(network(gray), network(gray.expand(2, 3, 24, 20)))
    images = torch.rand(2, 3, 24, 20)
    for same in (images.double(), images.to(memory_format=torch.channels_last), images.mT.contiguous().mT):
        assert torch.equal(network(same), network(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", [tiny_net, mil_net])
def test_weights_of_another_precision_are_refused_with_the_way_out(make, dtype):
    network = make().eval().to(dtype)
    with pytest.raises(ValueError, match=rf"weights of \w+ are {dtype}: .*float\(\)\) and compute .* torch.autocast"):
        network(torch.rand(1, 3, 24, 20))


@pytest.mark.parametrize("make", [tiny_net, mil_net])
def test_averaged_and_quantized_copies_are_no_exports(make):
    """Copies that compute with the network's own code read the patches of each image."""
    network = make().eval()
    images = torch.rand(2, 3, 24, 20)
    averaged = torch.optim.swa_utils.AveragedModel(network).eval()
    assert torch.equal(averaged(images), network(images))
    again = torch.func.functional_call(network, dict(network.named_parameters()), (images,))
    assert torch.equal(again, network(images))


def test_shared_backbone():
    shared = build_backbone(ConvBackbone((8,)), None)
    net = tiny_net(thumbnail_encoder=shared, patch_encoder=PatchEncoder(shared, feature_norm="l2"))
    assert net.patch_encoder.backbone is net.thumbnail_encoder
    net(*batch())
    apart = timm_net()
    assert apart.patch_encoder.backbone.model is not apart.thumbnail_encoder.model
    count = sum(p.numel() for p in net.parameters())
    assert count == sum(p.numel() for p in ConvBackbone((8,)).parameters()) + 2 * 9 + 3 * 9


@pytest.mark.parametrize("shared", [True, False])
def test_load_weights_fills_both_backbones_and_nothing_else(shared, tmp_path):
    donor = timm_net().thumbnail_encoder.model
    for parameter in donor.parameters():
        nn.init.normal_(parameter)
    path = str(tmp_path / "weights.pth")
    torch.save(donor.state_dict(), path)
    net = timm_net()
    if shared:
        backbone = build_backbone(TIMM, None)
        net = timm_net(thumbnail_encoder=backbone, patch_encoder=PatchEncoder(backbone))
    head = net.classifier.weight.clone()
    assert net.load_weights(None) is net
    first = donor.state_dict()["conv1.0.weight"]
    assert not torch.equal(net.patch_encoder.backbone.state_dict()["model.conv1.0.weight"], first)
    assert net.load_weights(path) is net
    for backbone in (net.thumbnail_encoder, net.patch_encoder.backbone):
        for name, value in donor.state_dict().items():
            assert torch.equal(backbone.state_dict()[f"model.{name}"], value)
    assert torch.equal(net.classifier.weight, head)
    built = timm_net(weights=path)
    assert torch.equal(built.patch_encoder.backbone.state_dict()["model.conv1.0.weight"], first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@EACH_RULE
def test_half_precision_trains_with_finite_gradients(dtype, sampler):
    net = tiny_net(sampler=sampler)
    thumbnails, images = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(thumbnails.to(dtype), images, return_attention=True)
        loss = JSMALoss()(output, torch.tensor([0, 2]))
    loss.backward()
    assert output["log_attention"].dtype == loss.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("sampler", [Pathwise(3, estimator="systematic"), LeaveOneOut(3), Prefix(3)], ids=repr)
def test_every_part_learns(sampler):
    net = tiny_net(sampler=sampler)
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
        ({"feature_norm": "l1"}, "unknown feature_norm 'l1'; choose one of None, l2"),
        ({"normalization": "max"}, "unknown normalization 'max'"),
        ({"level_prior": "flat"}, "unknown level_prior 'flat'"),
        ({"num_classes": 1}, "num_classes 1 must be at least 2"),
        ({"patch_encoder": None}, "one module was given for both encoders; give two, or let f share h's weights"),
        (
            {"sampler": TopK(3)},
            r"from TopK\(k=3.* the attention cannot learn: train with LeaveOneOut",
        ),
        ({"weights": "imagenet"}, "a module brings its own weights"),
        ({"magnifications": ("tenfold",)}, "'tenfold' is no magnification"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_net(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeaveOneOut(1), "k of LeaveOneOut must be a whole number of at least 2, but is 1"),
        (lambda: LeaveOneOut("all"), r"at least 2, but is 'all'; AllPatches\(\) reads all patches"),
        (lambda: Prefix(0), "k of Prefix must be a whole number of at least 1, but is 0"),
        (lambda: Pathwise(-1), "k of Pathwise must be a whole number of at least 1, but is -1"),
        (lambda: Pathwise(1, centered=True), "k of Pathwise must be a whole number of at least 2, but is 1"),
        (lambda: Pathwise(3, estimator="best"), "unknown estimator 'best'; choose one of paper"),
        (lambda: TopK("most"), "k of TopK must be a whole number of at least 1, but is 'most'"),
        (lambda: Draws(0, 2), "k of Pathwise must be a whole number of at least 1, but is 0"),
        (lambda: Draws(5, 0), "repeats of Draws must be a whole number of at least 1, but is 0"),
        (lambda: Draws(AllPatches(), 2), r"Draws repeats .* but got AllPatches\(\), which draws nothing at random"),
        (lambda: JSMAInferer(5), r"takes a sampler such as TopK\(5\) or AllPatches\(\), but got 5"),
    ],
)
def test_errors_of_samplers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_patches_that_stand_for_independent_draws():
    assert Draws(5, 3) == Draws(Pathwise(5, estimator="with_replacement"), 3)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (LeaveOneOut(4), TopK(4)),
        (Prefix(4), TopK(4)),
        (Pathwise(4), TopK(4, normalize=False)),
        (Pathwise(4, estimator="systematic"), TopK(4)),
        (AllPatches(), AllPatches()),
    ],
    ids=repr,
)
def test_what_evaluates_by_default(sampler, expected):
    assert sampler.for_evaluation() == expected


OLD = {
    "num_patches": r"sampler=LeaveOneOut\(k\), .* in evaluation sampler=TopK\(k\)",
    "learning_rule": r"sampler=LeaveOneOut\(k\)",
    "estimator": r"sampler=Pathwise\(k, estimator=",
    "centered": r"sampler=Pathwise\(k, centered=True\)",
    "draws": r"sampler=Draws\(k, repeats\)",
    "max_patches": r"sampler=Certified\(max_patches\)",
    "certified_chunk": r"sampler=Certified\(chunk=",
    "thumbnail_backbone": "thumbnail_encoder=",
    "patch_backbone": "patch_encoder=",
    "shared_backbone": r"one build_backbone\(...\)",
    "freeze_patch_backbone": r"patch_encoder=PatchEncoder\(backbone, frozen=True\)",
}


@pytest.mark.parametrize("option", OLD)
def test_options_of_version_0_1_name_what_to_write_instead(option):
    message = f"'{option}' was an option of version 0.1; write .*{OLD[option]}"
    net = tiny_net()
    for call in (tiny_net, mil_net, JSMAInferer, lambda **options: net(*batch(), **options)):
        with pytest.raises(TypeError, match=message):
            call(**{option: 3})
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_patch'"):
        tiny_net(num_patch=3)


def test_magnifications_are_kept_coarse_to_fine():
    assert [m.mpp for m in tiny_net(magnifications=(0.5, "50X", 1.0)).magnifications] == [2.0, 1.0, 0.5]


def test_pictures_of_other_magnifications():
    with pytest.raises(ValueError, match="attends to 1 magnifications, but the images have 2"):
        tiny_net(magnifications=("100X",))(*batch())


def test_inferer_passes_its_settings_and_the_rest_on():
    def network(*args, **kwargs):
        return args, kwargs

    assert JSMAInferer(Draws(4, 3))("image", network, "more", pyramid="p") == (
        ("image", "more"),
        {"sampler": Draws(4, 3), "pyramid": "p"},
    )
    net = tiny_net().eval()
    thumbnails, images = batch()
    top = JSMAInferer(TopK(5))(thumbnails, net, images, return_attention=True)
    assert top["cells"].shape == (2, 5)
