# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Grades and several labels: what their classifiers mean, that the attention learns it without bias, certificates."""

from __future__ import annotations

import pytest
import torch
from certified_cases import table_net
from hypothesis import given, settings
from scipy.stats import binom
from test_certified import CASES, certified
from test_learning_rules import ALPHA, draws_of, forward
from test_learning_rules import table_net as learning_net
from tiny_networks import mil_net, ragged_batch, tiny_net
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cross_entropy, normalize

from monai_jsma.engines import fit_classifier
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import (
    AllPatches,
    Certified,
    Confident,
    Draw,
    Draws,
    LeaveOneOut,
    LinearHead,
    MultiLabelClassifier,
    OrdinalClassifier,
    Prefix,
)
from monai_jsma.networks.classifier import build_classifier

THRESHOLDS = (0.5, 0.2, 0.9, 0.4, 0.5, 0.6)


def grades(classes: int, size: int = 4, *, weight: float = 1.0) -> OrdinalClassifier:
    """A classifier of random grades."""
    encoder = tiny_net().patch_encoder
    classifier = OrdinalClassifier(encoder, classes, dropout=0.0)
    classifier.weight = nn.Parameter(weight * torch.randn(1, size))
    classifier.scale = 1.0
    nn.init.normal_(classifier.gaps, std=2.0)
    nn.init.normal_(classifier.first_threshold)
    return classifier.eval()


# ---------------------------------------------------------------------------------------------------------- what it is


@torch.no_grad()
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_grade_is_the_number_of_thresholds_below_the_score(classes):
    torch.manual_seed(classes)
    classifier = grades(classes, 1)
    thresholds = classifier.grade_thresholds
    assert (thresholds.diff() > 0).all()
    scores = torch.linspace(-20, 20, 2001)[:, None]
    logits = classifier(scores / classifier.weight)
    assert torch.equal(logits.argmax(1), (scores > thresholds).sum(1))
    slow = [[sum(float(score - t) for t in thresholds[:grade]) for grade in range(classes)] for score in scores]
    torch.testing.assert_close(logits, torch.tensor(slow), rtol=1e-4, atol=1e-4)


def test_thresholds_start_around_zero_one_apart():
    classifier = build_classifier("ordinal", tiny_net().patch_encoder, 4)
    torch.testing.assert_close(classifier.grade_thresholds, torch.tensor([-1.0, 0.0, 1.0]))


def test_the_gradient_by_the_score_is_the_mean_grade_minus_the_true_one():
    torch.manual_seed(0)
    classifier = grades(4, 1)
    score = torch.tensor([[0.7]], requires_grad=True)
    for true in range(4):
        logits = classifier(score / classifier.weight.detach())
        (gradient,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([true])), score)
        mean = logits.softmax(1) @ torch.arange(4.0)
        torch.testing.assert_close(gradient[0], mean - true)


@pytest.mark.parametrize("make", [tiny_net, mil_net])
def test_networks_have_a_task(make):
    assert (make().task, make().thresholds) == ("multiclass", None)
    assert isinstance(make(task="ordinal").classifier, OrdinalClassifier)
    net = make(task="multilabel", thresholds=0.25)
    assert isinstance(net.classifier, MultiLabelClassifier)
    assert net.thresholds == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="task 'regression' is not offered"):
        make(task="regression")


@pytest.mark.parametrize(("saved", "own"), [("multiclass", "multilabel"), ("multilabel", "multiclass")])
def test_weights_of_another_task_are_refused(saved, own):
    """They fit, and would mean something else."""
    weights = tiny_net(task=saved).state_dict()
    with pytest.raises(ValueError, match=f"trained with task = '{saved}', but the network has '{own}'"):
        tiny_net(task=own).load_state_dict(weights)
    earlier = {key: value for key, value in tiny_net().state_dict().items() if key != "trained_with"}
    with pytest.raises(ValueError, match="trained with task = 'multiclass'"):
        tiny_net(task="multilabel").load_state_dict(earlier)


def test_a_regression_is_fitted_to_classes_only(tmp_path):
    for task in ("ordinal", "multilabel"):
        with pytest.raises(ValueError, match=f"the classifier of the task '{task}' is not fitted"):
            fit_classifier(tiny_net(task=task), [], file=tmp_path / "model.pt")


@torch.no_grad()
def test_repeated_draws_of_several_labels_have_the_mean_of_their_probabilities():
    net = tiny_net(task="multilabel").eval()
    thumbnails, source = ragged_batch()
    found = net(thumbnails, source, return_attention=True, sampler=Draws(2, 3))
    draws = found["draw_probabilities"]
    assert (draws.sum(dim=2) - 1).abs().min() > 1e-3  # no distribution over the classes
    torch.testing.assert_close(found["logits"].sigmoid(), draws.mean(dim=1))


# ----------------------------------------------------------------------------------------- what the attention learns


def deployed_gradient(net, draws, in_order, loss_of):
    """Autograd of sum_S p(S) L(S) + alpha R, with nothing of the library but the classifier."""
    net.zero_grad()
    prob = net.logits.softmax(0)
    cells, _ = draws
    chances = prob[cells]
    if in_order:
        drawn = nn.functional.one_hot(cells, len(prob))
        chances = chances / ((1 - drawn.cumsum(1) + drawn).double() @ prob)
    loss = loss_of(net.classifier(net.patch_encoder.features[cells].mean(dim=1)))
    (chances.prod(1) @ loss + ALPHA * (prob * prob.log()).sum()).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("task", ["ordinal", "multilabel"])
@pytest.mark.parametrize("sampler", [LeaveOneOut(2), LeaveOneOut(3), Prefix(2)], ids=repr)
def test_score_function_rules_are_exact(task, sampler, monkeypatch):
    net = learning_net(sampler)
    net.classifier = build_classifier(task, net.patch_encoder, 3, dropout=0.0).double()
    in_order = isinstance(sampler, Prefix)
    draws = draws_of(net, sampler.k, in_order)
    label = torch.tensor([1]) if task == "ordinal" else torch.tensor([[1.0, 0.0, 1.0]])
    loss_function = JSMALoss(alpha=ALPHA, task=task)
    net.zero_grad()
    for cells, chance in zip(*draws):
        (chance * loss_function(forward(net, cells, monkeypatch), label)).backward()
    learned = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}

    def loss_of(logits):
        if task == "ordinal":
            return -logits.log_softmax(1)[:, 1]
        truth = label.double().expand_as(logits)
        return binary_cross_entropy(logits.sigmoid(), truth, reduction="none").mean(dim=1)

    deployed = deployed_gradient(net, draws, in_order, loss_of)
    assert learned.keys() == deployed.keys() > {"logits", "patch_encoder.features", "classifier.weight"}
    for name, gradient in deployed.items():
        torch.testing.assert_close(learned[name], gradient, rtol=0, atol=1e-10)


# -------------------------------------------------------------------------------------------------------- certificates


def task_net(task, case):
    """Tables of attention and features with a random classifier of a task, its pictures, directions of attack."""
    net, source = table_net(**case)
    classes = case["classes"]
    weight = net.classifier.weight
    if task == "ordinal":
        net.classifier = OrdinalClassifier(net.patch_encoder, classes, dropout=0.0).eval()
        nn.init.normal_(net.classifier.weight, std=case["weight"])
        nn.init.normal_(net.classifier.gaps)
        directions = net.classifier.weight
    else:
        net.classifier = MultiLabelClassifier(net.patch_encoder, classes, dropout=0.0, thresholds=THRESHOLDS[:classes])
        net.classifier.eval().weight.data.copy_(weight)
        directions = weight
    return net, source, [*directions.detach(), *-directions.detach()]


@settings(max_examples=60, deadline=None)
@given(CASES)
@torch.no_grad()
@pytest.mark.parametrize("task", ["ordinal", "multilabel"])
def test_a_certified_label_is_that_of_all_patches_whatever_they_show(task, case):
    net, source, directions = task_net(task, case)
    cuts = None if net.thresholds is None else torch.tensor(net.thresholds, dtype=torch.float64).logit()

    def find_labels(logits):
        return logits.argmax(1)[:, None] if cuts is None else logits.double() >= cuts

    found = certified(net, source, 6, 2)
    labels, is_sure = find_labels(found["logits"]), found["certified"]
    low, high = found["intervals"].double().unbind(2)
    unseen = [sorted(set(range(n)) - source.read_cells[i]) for i, n in enumerate(case["cells"])]
    for direction in [None, *directions]:
        if direction is not None:
            worst = normalize(direction.clamp_min(0) if case["non_negative"] else direction, dim=0)
            for features, cells in zip(source.features, unseen, strict=True):
                features[cells] = worst
        logits = net(source.thumbnails, source, sampler=AllPatches())
        assert torch.equal(find_labels(logits)[is_sure], labels[is_sure])
        probabilities = logits.double().softmax(1) if cuts is None else logits.double().sigmoid()
        assert (probabilities >= low - 1e-6).all()
        assert (probabilities <= high + 1e-6).all()


@torch.no_grad()
def test_each_class_of_several_labels_must_be_certain():
    """One class is far from its threshold, the other is on it."""
    net, source = table_net(seed=0, cells=[3], classes=2, size=2, attention="flat")
    net.classifier = MultiLabelClassifier(net.patch_encoder, 2, dropout=0.0, thresholds=(0.5, 0.5)).eval()
    net.classifier.weight.data.zero_()
    net.classifier.bias.data.copy_(torch.tensor([5.0, 0.0]))
    assert certified(net, source)["certified"].tolist() == [False]
    net.classifier.bias.data[1] = -1.0
    assert certified(net, source)["certified"].tolist() == [True]
    assert source.read_cells == [{0, 1, 2}]  # by the first call alone


class OneImage:
    """Reads the features of one image, whose rows are given, for all rows of a batch."""

    def __init__(self, features: Tensor, head: LinearHead) -> None:
        self.table, self.head = features, head

    def features(self, draw: Draw, *, in_chunks: bool = False) -> Tensor:
        return self.table[draw.cells] * draw.drawn[..., None]

    def classify(self, bags: Tensor) -> Tensor:
        return bags @ self.head.weight.T + self.head.bias

    def linear_head(self) -> LinearHead:
        return self.head


@pytest.mark.parametrize("sharpness", [0.0, 2.0])
def test_at_the_boundary_a_share_of_at_most_delta_is_certified(sharpness):
    """All patches put the first class on its threshold: whichever side is said, the other could be true."""
    generator = torch.Generator().manual_seed(5)
    log_attention = (sharpness * torch.randn(60, generator=generator)).log_softmax(0)
    features = normalize(torch.randn(60, 3, generator=generator), dim=1)
    weight = torch.randn(2, 3, generator=generator)
    cut = torch.tensor(0.3).logit()
    bias = cut - weight @ (log_attention.exp() @ features)
    bias[1] += 4  # the second class is sure
    torch.manual_seed(0)
    reader = OneImage(features, LinearHead(weight, bias, thresholds=(0.3, 0.3)))
    num_sequences = 3000
    sampler = Confident(0.9, max_patches=50, chunk=5)
    found = sampler.sample(log_attention.expand(num_sequences, -1), reader).outputs
    is_present = found["logits"][:, 0] >= cut
    for side in (True, False):
        num_wrong = int((found["certified"] & (is_present == side)).sum())
        assert num_wrong <= min(binom.isf(1e-6, num_sequences, 0.1), 0.1 * num_sequences)


@torch.no_grad()
@pytest.mark.parametrize("task", ["ordinal", "multilabel"])
def test_clear_answers_are_soon_sure(task):
    case = {"seed": 3, "cells": [25, 20], "classes": 3, "size": 8, "attention": "flat", "weight": 0.01}
    net, source, _ = task_net(task, case)
    if task == "ordinal":
        net.classifier.first_threshold.data.fill_(3.0)
    else:
        net.classifier.bias.data.copy_(torch.tensor([4.0, -4.0, 4.0]))
    for sampler in (Certified(), Confident(0.99)):
        found = net(source.thumbnails, source, return_attention=True, sampler=sampler)
        assert found["certified"].all()
        assert found["weights"].gt(0).sum(1).max() < 20
