# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Attention MIL against a loop over single patches and numbers, and as a network that takes JSMANet's place."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_networks import CELLS, MAGNIFICATIONS, PATCH, mil_net, pictures, ragged_batch

from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.inferers import JSMAInferer
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import AllPatches, AttentionMIL, Certified, ConvBackbone, Draws, TopK, log_prior

LABELS = torch.tensor([0, 2, 1])


def slow_attention(net: AttentionMIL, features: list[list[float]]) -> list[float]:
    """Equation 9 of Ilse et al., number by number."""
    layer = net.attention
    content, gate = (
        [(w.tolist(), float(b)) for w, b in zip(part.weight, part.bias)] for part in (layer.content, layer.gate)
    )
    scores = []
    for f in features:
        score = 0.0
        for (v, b), (u, c), w in zip(content, gate, layer.score.weight[0].tolist()):
            inner = [sum(a * x for a, x in zip(row, f)) + bias for row, bias in ((v, b), (u, c))]
            score += w * math.tanh(inner[0]) / (1 + math.exp(-inner[1]))
        scores.append(math.exp(score))
    return [score / sum(scores) for score in scores]


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("feature_norm", [None, "l2"])
def test_equals_a_loop_over_numbers(training, feature_norm):
    net = mil_net(feature_norm=feature_norm).train(training)
    thumbnails, images = ragged_batch()
    output = net(thumbnails, images, return_attention=True)
    assert output.keys() == {"logits", "attention", "log_attention", "log_prior", "cells", "weights"}
    assert max(output["attention"][1]) > 0.1  # not all alike
    for i, single in enumerate(images.singles):
        one = torch.tensor([0])
        features = torch.cat([net.patch_encoder(single.read(one, torch.tensor([c]))) for c in range(CELLS[i])])
        scale = 4.0 if feature_norm else 1.0  # sqrt(16): vectors of length 1 as a linear layer meets them
        attention = slow_attention(net, (features * scale).tolist())
        bag = sum(a * f for a, f in zip(attention, features))
        expected = torch.tensor(attention + [0.0] * (31 - CELLS[i]))
        torch.testing.assert_close(output["attention"][i], expected, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(output["logits"][i], net.classifier(bag), rtol=1e-3, atol=1e-5)
    assert torch.equal(output["weights"], output["attention"])
    assert torch.equal(output["attention"], output["log_attention"].exp())
    assert output["cells"].tolist() == [list(range(31))] * 3
    assert torch.equal(output["log_prior"], log_prior(images.grids))
    assert torch.equal(net(thumbnails, images), output["logits"])


def gradients(net: AttentionMIL, image, pyramid, labels) -> list[torch.Tensor]:
    output = net(image, pyramid, return_attention=True)
    loss = JSMALoss()(output, labels) * len(labels)
    return list(torch.autograd.grad(loss, list(net.parameters())))


def test_a_batch_equals_its_singles_and_padding_has_no_gradient():
    net = mil_net()
    thumbnails, images = ragged_batch()
    together = net(thumbnails, images, return_attention=True)
    added = [torch.zeros_like(p) for p in net.parameters()]
    for i, single in enumerate(images.singles):
        alone = net(thumbnails[i : i + 1], single, return_attention=True)
        torch.testing.assert_close(together["logits"][i], alone["logits"][0])
        torch.testing.assert_close(together["attention"][i, : CELLS[i]], alone["attention"][0])
        assert not together["attention"][i, CELLS[i] :].any()
        parts = gradients(net, thumbnails[i : i + 1], single, LABELS[i : i + 1])
        added = [a + b for a, b in zip(added, parts)]
    whole = gradients(net, thumbnails, images, LABELS)
    torch.testing.assert_close(whole, added, rtol=1e-4, atol=1e-5)
    assert all(gradient.abs().sum() > 0 for gradient in whole)  # every part learns


def test_chunks_change_memory_and_nothing_else():
    """Training holds the activations of one chunk: the backward pass encodes each chunk again."""
    net, seen = mil_net(chunk_size=1000), []
    net.patch_encoder.backbone.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    thumbnails, images = ragged_batch()
    at_once, logits = gradients(net, thumbnails, images, LABELS), net(thumbnails, images)
    assert seen == [46, 46]
    seen.clear()
    net.patch_encoder.chunk_size = 20
    torch.testing.assert_close(gradients(net, thumbnails, images, LABELS), at_once, rtol=1e-4, atol=1e-5)
    assert sorted(seen) == [6, 6, 20, 20, 20, 20]
    seen.clear()
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(thumbnails, images), logits)
    assert seen == [20, 20, 6]


def test_it_learns_the_one_cell_that_tells():
    """Nine grey cells, of which one, each time another, has the colour of the class."""

    class Coloured:
        grids = [((3, 3),)] * 16

        def __init__(self) -> None:
            self.cells, self.labels = torch.randint(9, (16,)), torch.randint(3, (16,))

        def read(self, pictures, cells):
            patches = torch.full((len(cells), 3, PATCH, PATCH), 0.5)
            true = cells == self.cells[pictures]
            patches[true, self.labels[pictures[true]]] = 1.0
            return patches

    net = AttentionMIL(
        3, (1.0,), weights=None, patch_size=PATCH, patch_encoder=ConvBackbone((8, 16)), hidden=8, dropout=0.0
    )
    torch.manual_seed(0)
    optimizer, loss = torch.optim.Adam(net.parameters(), 1e-2), JSMALoss(alpha=0.0)
    for _ in range(80):
        pyramid = Coloured()
        optimizer.zero_grad()
        loss(net(torch.zeros(16), pyramid, return_attention=True), pyramid.labels).backward()
        optimizer.step()
    pyramid = Coloured()
    output = net.eval()(torch.zeros(16), pyramid, return_attention=True)
    assert torch.equal(output["logits"].argmax(1), pyramid.labels)
    assert output["attention"].gather(1, pyramid.cells[:, None]).min() > 0.5


@torch.no_grad()
def test_a_whole_picture_equals_its_pyramid():
    images = torch.stack(pictures((24, 20), (24, 20)))
    net = mil_net().eval()
    pyramid = TensorPyramidBatch(images, MAGNIFICATIONS, PATCH)
    torch.testing.assert_close(net(images), net(pyramid.thumbnail((16, 16)), pyramid))


def test_half_precision_is_finite():
    net = mil_net()
    thumbnails, images = ragged_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(thumbnails, images, return_attention=True)
        JSMALoss()(output, LABELS).backward()
    assert output["log_attention"].dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_weights_are_loaded_into_the_backbone(tmp_path):
    path = str(tmp_path / "weights.pth")
    donor = mil_net(patch_encoder="test_resnet").patch_encoder.backbone.model
    torch.save({k: v + 1 for k, v in donor.state_dict().items()}, path)
    net = mil_net(patch_encoder="test_resnet")
    assert net.load_weights(None) is net
    assert net.load_weights(path) is net
    for name, value in donor.state_dict().items():
        assert torch.equal(net.patch_encoder.backbone.state_dict()[f"model.{name}"], value + 1)


@pytest.mark.parametrize("sampler", [TopK(4), Draws(4, 2), Certified()], ids=repr)
def test_it_reads_all_patches_or_says_so(sampler):
    net = mil_net().eval()
    thumbnails, images = ragged_batch()
    with pytest.raises(
        ValueError, match=r"reads all patches and draws none.*set 'inference_sampler' to AllPatches\(\)"
    ):
        net(thumbnails, images, sampler=sampler)
    torch.testing.assert_close(JSMAInferer(AllPatches())(thumbnails, net, images), net(thumbnails, images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_norm": "l1"}, "unknown feature_norm 'l1'"),
        ({"chunk_size": 0}, "chunk_size 0 must be at least 1"),
        ({"patch_encoder": "inception_v33"}, "unknown backbone 'inception_v33'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        mil_net(**options)
