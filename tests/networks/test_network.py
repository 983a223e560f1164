# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""JSMANet against a slow loop that reads one patch after the other."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import Pictures, pictures, tiny_net

from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.inferers import JSMAInferer
from monai_jsma.networks import (
    ESTIMATORS,
    AllPatches,
    Draws,
    LeaveOneOut,
    Pathwise,
    Prefix,
    TopK,
    draw_cells,
    log_prior,
)

UNBIASED = ("with_replacement", "without_replacement", "systematic")
SIZES = ((24, 20), (40, 33), (6, 7))  # 4 + 9, 6 + 25 and 1 + 1 cells; the last is smaller than a patch


def batch(*sizes):
    images = Pictures(pictures(*(sizes or SIZES)))
    return images, images.thumbnails()


def slow_features(net, images, picture):
    """Features of every cell of one picture, one patch at a time."""
    cells = images.singles[picture].geometry.num_cells
    patches = [images.singles[picture].read(torch.tensor([0]), torch.tensor([c])) for c in range(cells)]
    return torch.cat([net.patch_encoder(patch) for patch in patches])


def slow_bag(net, images, picture, cells, weights):
    features = slow_features(net, images, picture)
    return sum(float(w) * features[c] for c, w in zip(cells, weights))


def assert_close(value, reference):
    torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_most_attended_patches_are_weighed_and_classified(estimator):
    net = tiny_net(sampler=Pathwise(3, estimator=estimator)).eval()
    images, thumbnails = batch()
    output = net(thumbnails, images, return_attention=True)
    assert output.keys() == {"logits", "attention", "log_attention", "log_prior", "cells", "weights"}
    assert_close(output["attention"], output["log_attention"].exp())
    assert_close(output["log_prior"], log_prior(images.grids))
    for i, single in enumerate(images.singles):
        prob = net.attend(thumbnails[i : i + 1], single.grids)[0].exp()
        count = min(3, len(prob))
        best = prob.argsort(descending=True)[:count]
        weights = prob[best] if estimator == "paper" else prob[best] / prob[best].sum()
        assert_close(output["attention"][i, : len(prob)], prob)
        assert output["cells"][i, :count].tolist() == best.tolist()
        assert_close(output["weights"][i], torch.nn.functional.pad(weights, (0, 3 - count)))
        assert_close(output["logits"][i], net.classifier(slow_bag(net, images, i, best, weights)))
    assert_close(net(thumbnails, images), output["logits"])


@torch.no_grad()
@pytest.mark.parametrize("sampler", [*(Pathwise(3, estimator=e) for e in UNBIASED), LeaveOneOut(3)], ids=repr)
def test_all_patches_are_equation_one(sampler):
    net = tiny_net(sampler=sampler).eval()
    images, thumbnails = batch()
    everything = net(thumbnails, images, sampler=AllPatches())
    for i in range(len(SIZES)):
        prob = net.attend(thumbnails[i : i + 1], images.grids[i : i + 1])[0].exp()
        assert_close(everything[i], net.classifier(slow_bag(net, images, i, range(len(prob)), prob)))
    assert_close(net(thumbnails, images, sampler=TopK(31)), everything)
    assert_close(net(thumbnails, images, sampler=TopK(1000)), everything)
    assert_close(JSMAInferer(AllPatches())(thumbnails, net, pyramid=images), everything)


@pytest.mark.parametrize("estimator", ["paper", "without_replacement", "systematic"])
def test_training_with_as_many_patches_as_cells_is_equation_one(estimator):
    net = tiny_net(sampler=Pathwise(31, estimator=estimator))
    images, thumbnails = batch()
    trained, parameters = net.train()(thumbnails, images), list(net.parameters())
    gradients = torch.autograd.grad(trained.square().sum(), parameters)
    everything = net.eval()(thumbnails, images, sampler=AllPatches())
    assert_close(trained, everything)
    log_prob = net.attend(thumbnails, images.grids)
    features = torch.nn.utils.rnn.pad_sequence([slow_features(net, images, i) for i in range(3)], batch_first=True)
    full = net.classifier((log_prob.exp()[..., None] * features).sum(1))
    for value, reference in zip(gradients, torch.autograd.grad(full.square().sum(), parameters)):
        assert_close(value, reference)


@torch.no_grad()
@pytest.mark.parametrize(
    "sampler", [*(Pathwise(2, estimator=e) for e in ESTIMATORS), LeaveOneOut(2), Prefix(2)], ids=repr
)
def test_repeated_draws_give_each_and_their_mean(sampler):
    net, repeats = tiny_net().eval(), 4
    images, thumbnails = batch()
    torch.manual_seed(5)
    output = net(thumbnails, images, return_attention=True, sampler=Draws(sampler, repeats))
    torch.manual_seed(5)
    log_prob = net.attend(thumbnails, images.grids)
    estimator = {Prefix: "paper", LeaveOneOut: "with_replacement"}.get(type(sampler)) or sampler.estimator
    draws = [draw_cells(log_prob, 2, estimator) for _ in range(repeats)]
    prob = torch.empty(repeats, len(SIZES), 3)
    for r, draw in enumerate(draws):
        for i in range(len(SIZES)):
            weights = draw.weights[i]
            if isinstance(sampler, Prefix):
                weights = draw.drawn[i] / draw.drawn[i].sum()
            prob[r, i] = net.classifier(slow_bag(net, images, i, draw.cells[i], weights)).softmax(0)
    assert output["cells"].tolist() == torch.cat([draw.cells for draw in draws], dim=1).tolist()
    assert_close(output["logits"].softmax(1), prob.mean(0))
    assert_close(output["logits"].exp().sum(1), torch.ones(len(SIZES)))
    assert_close(output["draw_probabilities"], prob.transpose(0, 1))
    if not isinstance(sampler, Pathwise):
        assert_close(output["weights"].sum(1), torch.ones(len(SIZES)))


@torch.no_grad()
@pytest.mark.parametrize("options", [{"feature_norm": "l2"}, {"sampler": LeaveOneOut(3)}])
def test_a_batch_equals_its_singles(options):
    net = tiny_net(**options).eval()
    images, thumbnails = batch()
    for call in ({}, {"sampler": AllPatches()}, {"sampler": TopK(5)}):
        together = net(thumbnails, images, return_attention=True, **call)
        for i, single in enumerate(images.singles):
            alone = net(thumbnails[i : i + 1], single, return_attention=True, **call)
            for key in ("logits", "attention"):
                assert_close(together[key][i][: alone[key].shape[1]], alone[key][0])
            cells, weights = alone["cells"][0], alone["weights"][0]
            drawn = weights > 0
            assert together["cells"][i][: len(cells)][drawn].tolist() == cells[drawn].tolist()
            assert_close(together["weights"][i][: len(cells)], weights)
            assert not together["weights"][i][len(cells) :].any()


@pytest.mark.parametrize("sampler", [Pathwise(6), LeaveOneOut(6), Prefix(6)], ids=repr)
def test_training_on_pictures_with_fewer_cells_than_patches(sampler):
    """The picture of two cells, in a batch with larger ones: finite, and what was not drawn has no weight."""
    net = tiny_net(sampler=sampler)
    images, thumbnails = batch()
    output = net(thumbnails, images, return_attention=True)
    (output["logits"].sum() + output.get("drawn_log_prob", torch.zeros(())).sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    if isinstance(sampler, LeaveOneOut):
        assert output["cells"][2].max() < 2
    else:
        assert sorted(output["cells"][2, :2].tolist()) == [0, 1]
        assert not output["weights"][2, 2:].any()
    if isinstance(sampler, Prefix):
        assert_close(output["weights"][2, :2], torch.tensor([0.5, 0.5]))
        assert not output["drawn_log_prob"][2, 2:].any()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_whole_picture_equals_its_thumbnail_and_pyramid(dtype):
    images = torch.stack(pictures((24, 20), (24, 20)))
    images = images if dtype == torch.uint8 else images.float() / 255
    net = tiny_net().eval()
    pyramid = TensorPyramidBatch(images, (1.0, 2.0), 8)
    reference = net(pyramid.thumbnail((16, 16)), pyramid)
    logits = net(images)
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 3)
    assert_close(logits, reference)
    thumbnails = (pyramid.thumbnail((16, 16)) * 255).round().to(torch.uint8)
    torch.testing.assert_close(net(thumbnails, pyramid), reference, rtol=0.05, atol=0.05)


def test_equal_draws_share_one_pass():
    """Attention on one cell: three draws, one patch read and encoded, and the gradient of all three."""
    net = tiny_net(sampler=Pathwise(3, estimator="with_replacement"))
    images, thumbnails = batch()
    net.attend = lambda thumbnail, grids, views: torch.tensor([[0.0, -1e4]] * 3)
    seen = []
    net.patch_encoder.backbone.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    logits = net(thumbnails, images)
    assert (images.patches_read, sum(seen)) == (3, 3)  # pictures, not draws
    first = torch.cat([slow_features(net, images, i)[:1] for i in range(3)])
    assert_close(logits, net.classifier(first))
    (images.patches_read, seen[:]) = (0, [])
    with torch.no_grad():
        net.eval()(thumbnails, images, sampler=Draws(net.sampler, 7))
    assert (images.patches_read, sum(seen)) == (3, 3)


@torch.no_grad()
def test_evaluation_reads_in_chunks():
    net = tiny_net(chunk_size=4).eval()
    images, thumbnails = batch()
    seen = []
    hook = net.patch_encoder.backbone.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    in_chunks = net(thumbnails, images, sampler=AllPatches())
    hook.remove()
    assert sum(seen) == 13 + 31 + 2
    assert max(seen) == 4
    net.patch_encoder.chunk_size = 1000
    assert_close(net(thumbnails, images, sampler=AllPatches()), in_chunks)
