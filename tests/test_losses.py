# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The loss by numbers worked out by hand."""

from __future__ import annotations

import re
from math import exp, log

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from monai_jsma.losses import JSMALoss
from monai_jsma.networks import log_prior

LOG3 = log(3.0)
TARGET = torch.tensor([0, 1])


def prediction(**more):
    """Picture 0 gives class 0 probability 3/4, picture 1 gives class 1 one half; attention over 4 and over 2 cells."""
    attention = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.75, 0.25, 0.0, 0.0]]).log()
    return {"logits": torch.tensor([[LOG3, 0.0], [0.0, 0.0]]), "log_attention": attention, **more}


def test_cross_entropy_plus_weighted_negative_entropy():
    entropy = (log(4) + -(0.75 * log(0.75) + 0.25 * log(0.25))) / 2
    expected = (log(4 / 3) + log(2)) / 2 - 0.01 * entropy
    assert float(JSMALoss()(prediction(), TARGET)) == pytest.approx(expected, abs=1e-6)
    assert float(JSMALoss(alpha=2.0)(prediction(), TARGET)) == pytest.approx(expected - 1.99 * entropy, abs=1e-6)
    assert float(JSMALoss(alpha=0.0)(prediction(), TARGET)) == pytest.approx(expected + 0.01 * entropy, abs=1e-6)


def test_kl_is_measured_from_equal_shares_of_the_magnifications():
    """Grids (1, 1) and (1, 3): prior 1/2 and three times 1/6. Grids (1, 1) twice: 1/2 and 1/2."""
    prior = log_prior([((1, 1), (1, 3)), ((1, 1), (1, 1))])
    kl = (0.25 * log(0.5) + 0.75 * log(1.5)), (0.75 * log(1.5) + 0.25 * log(0.5))
    expected = (log(4 / 3) + log(2)) / 2 + 0.1 * sum(kl) / 2
    loss = JSMALoss(alpha=0.1, regularizer="kl")
    assert float(loss(prediction(log_prior=prior), TARGET)) == pytest.approx(expected, abs=1e-6)


def test_plain_logits_give_the_cross_entropy():
    assert float(JSMALoss()(prediction()["logits"], TARGET)) == pytest.approx((log(4 / 3) + log(2)) / 2, abs=1e-6)


def test_label_smoothing():
    smooth = 0.8 * log(4 / 3) + 0.2 * (log(4 / 3) + log(4)) / 2
    loss = JSMALoss(alpha=0.0, label_smoothing=0.2)
    assert float(loss(prediction()["logits"][:1], TARGET[:1])) == pytest.approx(smooth, abs=1e-6)


def test_score_function_term_has_no_value_but_its_gradient():
    """d/d log P_s = (CE - CE_s) / batch, with the baselines' losses taken as numbers."""
    logits = torch.tensor([[LOG3, 0.0], [0.0, 0.0]], requires_grad=True)
    baselines = torch.tensor([[[0.0, 0.0], [LOG3, 0.0]], [[0.0, 1.0], [5.0, 0.0]]], requires_grad=True)
    log_p = torch.tensor([[-1.0, -2.0], [-0.5, -7.0]], requires_grad=True)
    pred = {**prediction(logits=logits), "baseline_logits": baselines, "drawn_log_prob": log_p}
    value = JSMALoss()(pred, TARGET)
    assert value.item() == pytest.approx(float(JSMALoss()(prediction(), TARGET)), abs=1e-7)
    value.backward()
    first, second = log(4 / 3), log(2)
    expected = [[first - log(2), 0.0], [second - log(1 + exp(-1)), second - log(1 + exp(5))]]
    torch.testing.assert_close(log_p.grad, torch.tensor(expected) / 2)
    plain = torch.autograd.grad(cross_entropy(logits, TARGET), logits)[0]
    torch.testing.assert_close(logits.grad, plain)
    assert baselines.grad is None


def test_half_precision_and_certain_attention_stay_finite():
    logits = torch.tensor([[6e4, -6e4], [-6e4, 6e4]], dtype=torch.float16, requires_grad=True)
    attention = torch.tensor([[0.0, float("-inf")], [0.0, -1e4]], requires_grad=True)
    loss = JSMALoss()({"logits": logits, "log_attention": attention}, torch.tensor([1, 1]))
    assert loss.item() == pytest.approx(6e4, rel=1e-2)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(attention.grad).all()


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0]])
def test_label_that_is_no_class(labels):
    with pytest.raises(ValueError, match=r"labels \[.*\] do not lie in 0..1"):
        JSMALoss()(prediction(), torch.tensor(labels))


@pytest.mark.parametrize("labels", [[0.5, 1.75], [0.0, 1.0], [float("nan"), 1.0], [float("inf"), 0.0]])
@pytest.mark.parametrize("plain", [True, False])
def test_numbers_to_regress_are_no_classes(labels, plain):
    """They would be truncated: 0.5 and NaN to some class, without a word."""
    pred = prediction()["logits"] if plain else prediction()
    first = re.escape(str(labels))
    with pytest.raises(ValueError, match=rf"labels of torch.float32, such as {first}: .*label.long"):
        JSMALoss()(pred, torch.tensor(labels))


def test_one_hot_labels_are_refused_with_the_way_out():
    one_hot = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"shape \(2, 2\): .*target.argmax\(1\) of one-hot labels"):
        JSMALoss()(prediction(), one_hot)
    with pytest.raises(ValueError, match=r"target.argmax\(1\) of one-hot labels"):
        JSMALoss()(prediction(), one_hot.long())
    assert torch.equal(JSMALoss()(prediction(), one_hot.argmax(1)), JSMALoss()(prediction(), TARGET))


def test_unknown_regularizer():
    with pytest.raises(ValueError, match="unknown regularizer 'l1'; choose 'entropy' or 'kl'"):
        JSMALoss(regularizer="l1")


SCORES = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.3, -2.0], [1.0, 1.0, 4.0], [-3.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 2, 2, 1])


@pytest.mark.parametrize("weight", [None, (1.0, 4.0, 0.5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_class_weights_and_smoothing_are_those_of_torch(weight, smoothing):
    tensor = None if weight is None else torch.tensor(weight)
    expected = torch.nn.CrossEntropyLoss(tensor, label_smoothing=smoothing)(SCORES, LABELS)
    loss = JSMALoss(label_smoothing=smoothing, weight=weight)
    torch.testing.assert_close(loss(SCORES, LABELS), expected)
    torch.testing.assert_close(JSMALoss(label_smoothing=smoothing, weight=tensor)(SCORES.half(), LABELS), expected)


def test_class_weights_do_not_weigh_the_regularizer():
    """Weights 1 and 3 of two images: their losses count 1/4 and 3/4, their attention one half each."""
    entropy = (log(4) + -(0.75 * log(0.75) + 0.25 * log(0.25))) / 2
    expected = log(4 / 3) / 4 + 3 * log(2) / 4 - 0.01 * entropy
    assert float(JSMALoss(weight=[1, 3])(prediction(), TARGET)) == pytest.approx(expected, abs=1e-6)


def test_class_weights_count_in_the_score_function():
    """The advantage of a draw is weighed as the loss of its image is: 1/2 and 3/2 in a batch of one of each."""
    baselines = torch.tensor([[[0.0, 0.0], [LOG3, 0.0]], [[0.0, 1.0], [5.0, 0.0]]])
    gradients = []
    for weight in (None, [1.0, 3.0]):
        log_p = torch.tensor([[-1.0, -2.0], [-0.5, -7.0]], requires_grad=True)
        JSMALoss(weight=weight)(prediction(baseline_logits=baselines, drawn_log_prob=log_p), TARGET).backward()
        gradients.append(log_p.grad)
    torch.testing.assert_close(gradients[1], gradients[0] * torch.tensor([[0.5], [1.5]]))


@pytest.mark.parametrize("weight", [None, [1.0, 3.0]])
def test_labels_in_a_column_are_labels(weight):
    """The shape that MONAI's collate gives to labels that are arrays of one number."""
    loss = JSMALoss(weight=weight)
    baselines = torch.tensor([[[0.0, 0.0], [LOG3, 0.0]], [[0.0, 1.0], [5.0, 0.0]]])
    pred = prediction(baseline_logits=baselines, drawn_log_prob=torch.zeros(2, 2))
    assert torch.equal(loss(pred, TARGET[:, None]), loss(pred, TARGET))
    assert torch.equal(loss(pred["logits"], TARGET[:, None]), loss(pred["logits"], TARGET))


@pytest.mark.parametrize("make", [list, tuple, np.array])
def test_labels_of_a_list_and_an_array_are_labels(make):
    pred = prediction()
    assert torch.equal(JSMALoss()(pred, make(TARGET.tolist())), JSMALoss()(pred, TARGET))
    with pytest.raises(ValueError, match="give classes, such as label.long"):
        JSMALoss()(pred, make([0.5, 1.5]))


def test_an_empty_batch_has_loss_0_and_no_gradient():
    logits = torch.zeros(0, 3, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    for weight in (None, [1.0, 2.0, 3.0]):
        loss = JSMALoss(weight=weight)(logits, none)
        assert loss.item() == 0
        loss.backward()


@pytest.mark.parametrize("shape", [(4, 2), (1, 4), (4, 1, 1), (3,), ()])
def test_labels_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"labels of shape \(.*\) do not fit logits of shape \(4, 3\): .*\(4, 1\)"):
        JSMALoss()(SCORES, torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("weight", [[1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [[1.0, 2.0]]])
def test_class_weights_out_of_range(weight):
    with pytest.raises(ValueError, match="class weights must be positive numbers, one for each class, but are"):
        JSMALoss(weight=weight)


def test_as_many_class_weights_as_classes():
    with pytest.raises(ValueError, match=r"2 class weights \[1.0, 2.0\] do not fit 3 classes"):
        JSMALoss(weight=[1, 2])(SCORES, LABELS)


@pytest.mark.parametrize("smoothing", [-0.1, 1.5, float("nan")])
def test_label_smoothing_out_of_range(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing .* must be in \[0, 1\]"):
        JSMALoss(label_smoothing=smoothing)


def test_several_labels_have_the_mean_binary_cross_entropy_of_the_classes():
    logits = torch.tensor([[LOG3, 0.0], [-LOG3, 0.0]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    each = torch.tensor([[log(4 / 3), log(2)], [log(4), log(2)]])
    found = JSMALoss(task="multilabel")(logits, labels)
    assert float(found) == pytest.approx(float(each.mean()), abs=1e-6)
    weighted = JSMALoss(task="multilabel", weight=[3.0, 1.0])(logits, labels)
    assert float(weighted) == pytest.approx(float((each * torch.tensor([0.75, 0.25])).sum() / 2), abs=1e-6)
    smooth = JSMALoss(task="multilabel", label_smoothing=0.2)(logits[:1], labels[:1])
    by_hand = (0.9 * log(4 / 3) + 0.1 * log(4) + log(2)) / 2
    assert float(smooth) == pytest.approx(by_hand, abs=1e-6)


def test_labels_that_do_not_fit_the_task():
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"multi-label needs 1 or 0 for each class of each image"):
        JSMALoss(task="multilabel")(logits, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"are 1 \(present\) or 0 \(absent\) for each class, but some are \[2.0\]"):
        JSMALoss(task="multilabel")(logits, torch.tensor([[0, 1, 2], [0, 0, 1]]))
    with pytest.raises(ValueError, match="task 'survival' is not offered"):
        JSMALoss(task="survival")
