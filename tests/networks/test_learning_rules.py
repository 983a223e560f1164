# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Proof by enumeration: what the attention learns is the gradient of the loss that is deployed, E over draws S of L(S).

Network and loss are the library's, from the draw to the scalar that is differentiated; attention and patch features are
tables, and the head is confident, so that the mean of the loss and the loss of the mean differ.
"""

from __future__ import annotations

import pytest
import torch
from enumeration import independent_draws, ordered_draws
from tiny_networks import CellNumbers, TableNet
from torch.nn.functional import cross_entropy

from monai_jsma.losses import JSMALoss
from monai_jsma.networks import LeaveOneOut, Pathwise, Prefix, draw_log_prob, drawing

CELLS, CLASSES, ALPHA = 5, 3, 0.1


def table_net(sampler):
    torch.manual_seed(2)
    logits = torch.tensor([1.5, -0.5, 0.3, 0.0, -1.0])
    features = 2 * torch.randn(CELLS, 4)
    return TableNet(logits, features, CLASSES, sharpness=3.0, sampler=sampler).train()


def forward(net, cells, monkeypatch):
    """What the network gives for one picture when ``cells`` are drawn."""
    for name in ("draw_independently", "draw_in_order"):
        monkeypatch.setattr(drawing, name, lambda *_: cells[None])
    output = net(torch.zeros(1, 3, 8, 8), CellNumbers(1, CELLS), return_attention=True)
    assert torch.equal(output["cells"], cells[None])
    return output


def learned_gradient(net, draws, monkeypatch):
    """Mean over all draws of the gradient that training takes, for every parameter."""
    net.zero_grad()
    for cells, chance in zip(*draws):
        loss = JSMALoss(alpha=ALPHA)(forward(net, cells, monkeypatch), torch.tensor([1]))
        (chance * loss).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def deployed_gradient(net, draws, in_order):
    """Autograd of sum_S p(S) L(S) + alpha R, with nothing of the library but the classifier's weights."""
    net.zero_grad()
    prob = net.logits.softmax(0)
    cells, _ = draws
    chances = prob[cells]
    if in_order:
        drawn = torch.nn.functional.one_hot(cells, CELLS)
        chances = chances / ((1 - drawn.cumsum(1) + drawn).double() @ prob)
    logits = net.classifier(net.patch_encoder.features[cells].mean(dim=1))
    loss = cross_entropy(logits, torch.ones(len(cells), dtype=torch.long), reduction="none")
    (chances.prod(1) @ loss + ALPHA * (prob * prob.log()).sum()).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def draws_of(net, k, in_order):
    return (ordered_draws if in_order else independent_draws)(net.logits.softmax(0).detach(), k)


SAMPLERS = [LeaveOneOut(2), LeaveOneOut(3), Prefix(1), Prefix(2), Prefix(3), Prefix(5)]
LEARNED = {"logits", "patch_encoder.features", "classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_score_function_rules_are_exact(sampler, monkeypatch):
    net, in_order = table_net(sampler), isinstance(sampler, Prefix)
    draws = draws_of(net, sampler.k, in_order)
    learned, deployed = learned_gradient(net, draws, monkeypatch), deployed_gradient(net, draws, in_order)
    assert learned.keys() == deployed.keys() == LEARNED
    for name, gradient in deployed.items():
        torch.testing.assert_close(learned[name], gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [2, 3])
def test_pathwise_rule_is_not(k, monkeypatch):
    """The same test detects the pathwise rule: its attention learns something else."""
    net = table_net(Pathwise(k, estimator="with_replacement"))
    draws = draws_of(net, k, False)
    learned, deployed = learned_gradient(net, draws, monkeypatch), deployed_gradient(net, draws, False)
    assert (learned["logits"] - deployed["logits"]).norm() > 0.15 * deployed["logits"].norm()
    of_features = [gradients["patch_encoder.features"] for gradients in (learned, deployed)]
    torch.testing.assert_close(*of_features, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sampler", [LeaveOneOut(3), Prefix(3)], ids=repr)
def test_baselines_are_the_loss_without_a_draw_or_before_it(sampler, monkeypatch):
    net = table_net(sampler)
    cells = torch.tensor([2, 0, 4])
    output = forward(net, cells, monkeypatch)
    f = net.patch_encoder.features[cells]
    if sampler == LeaveOneOut(3):
        baselines = [(f[1] + f[2]) / 2, (f[0] + f[2]) / 2, (f[0] + f[1]) / 2]
    else:
        baselines = [torch.zeros_like(f[0]), f[0], (f[0] + f[1]) / 2]
    torch.testing.assert_close(output["baseline_logits"][0], net.classifier(torch.stack(baselines)))
    torch.testing.assert_close(output["logits"][0], net.classifier(f.mean(0)))
    log_prob = net.logits.log_softmax(0)[None]
    reference = draw_log_prob(log_prob, cells[None], in_order=sampler == Prefix(3))
    torch.testing.assert_close(output["drawn_log_prob"], reference)
    torch.testing.assert_close(output["weights"], torch.full((1, 3), 1 / 3, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("sampler", [LeaveOneOut(3), Prefix(3)], ids=repr)
def test_a_picture_is_compared_under_one_dropout_mask(sampler):
    """Where all patches are alike, leaving one out changes nothing: without a common mask dropout would."""
    net = table_net(sampler)
    features = net.patch_encoder.features.data
    features[:] = features[:1].clone()
    net.classifier.dropout.p = 0.5
    output = net(torch.zeros(2, 3, 8, 8), CellNumbers(2, CELLS), return_attention=True)
    same = output["baseline_logits"][:, 1:]  # the first prefix is empty
    torch.testing.assert_close(same, output["logits"][:, None].expand_as(same))


def test_rules_sample_as_they_say():
    """LeaveOneOut draws with repetition, Prefix without."""
    peaked = table_net(LeaveOneOut(4))
    peaked.logits.data = torch.tensor([50.0, 0, 0, 0, 0]).double()
    args = torch.zeros(1, 3, 8, 8), CellNumbers(1, CELLS)
    assert peaked(*args, return_attention=True)["cells"].tolist() == [[0, 0, 0, 0]]
    prefix = table_net(Prefix(4))
    prefix.logits.data = peaked.logits.data
    cells = prefix(*args, return_attention=True)["cells"][0].tolist()
    assert cells[0] == 0
    assert len(set(cells)) == 4
