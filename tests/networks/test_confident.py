# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Stopping at a confidence: how often it is wrong where it is hardest, and that it is not wrong elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from certified_cases import table_net
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from test_certified import CASES, batch, sharp_net
from tiny_networks import mil_net, tiny_net
from torch import Tensor, nn

from monai_jsma.data.prediction_dataset import NotFiniteError
from monai_jsma.inferers import JSMAInferer
from monai_jsma.networks import AllPatches, Certified, Confident, Draw, Draws, LinearHead
from monai_jsma.networks.betting import SHARES

NUM_SEQUENCES = 4000


def read(net, source, sampler, *, seed=0):
    torch.manual_seed(seed)
    return net(source.thumbnails, source, return_attention=True, sampler=sampler)


class OneImage:
    """Reads the features of one image, whose rows are given, for all rows of a batch; of no file, and no encoder."""

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.table, self.weight, self.bias = features, weight, bias

    def features(self, draw: Draw, *, in_chunks: bool = False) -> Tensor:
        return self.table[draw.cells] * draw.drawn[..., None]

    def classify(self, bags: Tensor) -> Tensor:
        return bags @ self.weight.T + self.bias

    def linear_head(self) -> LinearHead:
        return LinearHead(self.weight, self.bias)


# ------------------------------------------------------------------------------------------------------- the promise


@pytest.mark.parametrize("confidence", [0.99, 0.9])
@pytest.mark.parametrize(("sharpness", "classes"), [(0.0, 2), (0.0, 4), (1.0, 2), (1.0, 3), (3.0, 2)])
def test_at_the_boundary_a_share_of_at_most_delta_is_certified(sharpness, classes, confidence):
    generator = torch.Generator().manual_seed(5)
    log_attention = (sharpness * torch.randn(60, generator=generator)).log_softmax(0)
    features = nn.functional.normalize(torch.randn(60, 3, generator=generator), dim=1)
    weight = torch.randn(classes, 3, generator=generator)
    bias = -weight @ (log_attention.exp() @ features)  # all patches give 0 for each class

    torch.manual_seed(0)
    sampler = Confident(confidence, max_patches=50, chunk=5)
    reader = OneImage(features, weight, bias)
    found = sampler.sample(log_attention.expand(NUM_SEQUENCES, -1), reader).outputs
    label = found["logits"].argmax(1)
    delta = 1 - confidence
    for highest in range(classes):  # whichever of the equal classes is called the label, the others are wrong
        num_wrong = int((found["certified"] & (label != highest)).sum())
        assert num_wrong <= binom.isf(1e-6, NUM_SEQUENCES, delta)  # chance alone exceeds it once in a million
        assert num_wrong <= NUM_SEQUENCES * delta


def test_nothing_is_bet_on_cells_that_were_not_drawn():
    """Each cell holds a fifth of what is left; the first ones are for one class, and the rest makes it a tie."""
    attention = 0.8 ** torch.arange(40.0)
    attention /= attention.sum()
    first = attention[:3].sum()
    features = torch.ones(40, 1)
    features[3:] = -first / (1 - first)
    weight = torch.tensor([[1.0], [-1.0]])
    reader = OneImage(features, weight, torch.zeros(2))
    found = Confident(0.5).sample(attention.log()[None], reader)
    assert found.outputs["certified"].tolist() == [False]
    assert found.cells[0].tolist() == list(range(40))


@pytest.mark.parametrize(("large", "is_first"), [(0.13, True), (0.12, False)])
def test_cells_of_more_than_an_eighth_are_read_first(large, is_first):
    attention = torch.full((200,), (1 - large) / 199)
    attention[7] = large
    reader = OneImage(torch.ones(200, 1), torch.tensor([[1.0], [-1.0]]), torch.zeros(2))
    torch.manual_seed(0)
    found = Confident(max_patches=1).sample(attention.log().expand(100, -1), reader)
    assert bool((found.cells == 7).all()) == is_first


def exact_labels(net, source):
    return net(source.thumbnails, source, sampler=AllPatches()).argmax(1)


@settings(max_examples=100, deadline=None)
@given(CASES, st.integers(1, 4), st.none() | st.integers(1, 12), st.integers(0, 2**31))
@torch.no_grad()
def test_labels_are_those_of_all_patches(case, chunk, cap, seed):
    net, source = table_net(**case)
    found = read(net, source, Confident(1 - 1e-7, max_patches=cap, chunk=chunk), seed=seed)
    times, cells_read = dict(source.times), source.read_cells
    certified = found["certified"]
    assert torch.equal(found["logits"].argmax(1)[certified], exact_labels(net, source)[certified])

    assert max(times.values()) == 1  # each patch once
    num_read = (found["weights"] > 0).sum(dim=1)
    for i, number in enumerate(case["cells"]):
        assert set(found["cells"][i, : num_read[i]].tolist()) == cells_read[i]
        assert num_read[i] <= min(number, cap or number)
        assert (found["confidence"][i] >= 1 - 1e-7) == certified[i]
    torch.testing.assert_close(found["weights"].sum(1), torch.ones(len(num_read)))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_large_images_of_random_networks(seed):
    cells = [3000, 800, 84, 1500, 300]
    for attention in ("flat", "mild", "sharp"):
        net, source = table_net(seed=seed, cells=cells, classes=3, size=6, attention=attention, bias=0.7)
        found = read(net, source, Confident(max_patches=None, chunk=16), seed=seed)
        assert found["certified"].all()
        assert torch.equal(found["logits"].argmax(1), exact_labels(net, source))


# ----------------------------------------------------------------------------------------------------- a slow reference


def read_by_hand(net, source, order, *, confidence: float, cap: int) -> tuple[int, float]:
    """How many patches must be read in this order, and how sure the label is then: number by number, in float64.

    All cells have the same attention, below the share that is read first.
    """
    features = nn.functional.normalize(source.features[0].double(), dim=1).numpy()
    weight = net.classifier.weight.double().numpy() * features.shape[1] ** 0.5
    bias = net.classifier.bias.double().numpy()
    prob = 1 / len(features)
    size = np.linalg.norm(weight, axis=1) + np.abs(bias)
    classes = range(len(bias))
    wealth = {(a, b, share): 1.0 for a in classes for b in classes if a != b for share in SHARES}

    known = np.zeros(features.shape[1])
    for number, cell in enumerate(order, start=1):
        unread = 1 - (number - 1) * prob
        guess = weight @ (known + unread * features[cell]) + bias
        sure = weight @ known + bias
        for a, b, share in wealth:
            error = 2**-11.5 * (size[a] + size[b])
            least = sure[a] - sure[b] - unread * np.linalg.norm(weight[a] - weight[b]) - error
            wealth[a, b, share] *= 1 + share * (guess[a] - guess[b] - error) / -least
        known = known + prob * features[cell]
        bag = weight @ known + bias
        for a, b, share in wealth:
            reach = (1 - number * prob) * np.linalg.norm(weight[a] - weight[b])
            if bag[a] - bag[b] - reach - 2**-11.5 * (size[a] + size[b]) > 0:
                wealth[a, b, share] = np.inf  # for certain
        mean = np.mean([features[c] for c in order[:number]], axis=0)
        label = int(np.argmax(weight @ (known + (1 - number * prob) * mean) + bias))
        least_wealth = min(np.mean([wealth[label, b, s] for s in SHARES]) for b in classes if b != label)
        reached = max(0.0, 1 - (len(bias) - 1) / least_wealth)
        if reached >= confidence or number == cap:
            return number, reached
    raise AssertionError


@torch.no_grad()
@pytest.mark.parametrize("seed", range(6))
def test_it_stops_where_the_wealth_is_enough(seed):
    net, source = table_net(seed=seed, cells=[400], classes=3, size=5, attention="flat", weight=1.0, bias=1.0)
    cap = 60
    found = read(net, source, Confident(0.99, max_patches=cap), seed=seed)
    order = found["cells"][0].tolist()
    number, reached = read_by_hand(net, source, [*order, *[0] * cap], confidence=0.99, cap=cap)
    assert len(order) == number
    assert float(found["confidence"][0]) == pytest.approx(reached, abs=1e-4)
    assert bool(found["certified"][0]) == (reached >= 0.99)


@torch.no_grad()
def test_the_logits_are_those_of_the_weights_it_gives():
    net, source = table_net(seed=2, cells=[40, 9], classes=3, size=5, attention="mild", bias=0.5)
    found = read(net, source, Confident(max_patches=11, chunk=4))
    features = [nn.functional.normalize(rows, dim=1) for rows in source.features]
    for i, rows in enumerate(features):
        number = int((found["weights"][i] > 0).sum())
        cells = found["cells"][i, :number]
        weights = found["weights"][i, :number]
        bag = weights @ rows[cells]
        torch.testing.assert_close(found["logits"][i], net.classifier(bag[None])[0])
        attention = found["attention"][i][cells]
        torch.testing.assert_close(weights, attention + (1 - attention.sum()) / number)


@torch.no_grad()
def test_it_reads_no_more_than_certified_needs_where_attention_is_sharp_and_less_where_it_is_flat():
    sums = {}
    for attention in ("one-hot", "flat"):
        net, source = table_net(seed=1, cells=[500] * 8, classes=2, size=3, attention=attention, bias=2.0)
        for sampler in (Certified(), Confident(max_patches=None)):
            source.times.clear()
            read(net, source, sampler)
            sums[attention, type(sampler)] = sum(source.times.values())
    assert sums["one-hot", Confident] == sums["one-hot", Certified] == 8
    assert sums["flat", Confident] < 0.5 * sums["flat", Certified]


# ------------------------------------------------------------------------------------------------------------ batches


@torch.no_grad()
@pytest.mark.parametrize("amp", [False, True])
def test_labels_of_pictures_in_a_batch_are_those_of_all_patches(amp):
    net, images = sharp_net(), batch()
    inferer = JSMAInferer(Confident(chunk=2), seed=3)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        together = inferer(torch.rand(3, 3, 40, 33), net, return_attention=True)
        everything = net(images.thumbnails, images, sampler=AllPatches()).argmax(1)
        found = read(net, images, Confident())
    sure = found["certified"]
    assert torch.equal(found["logits"].argmax(1)[sure], everything[sure])
    assert together["certified"].shape == together["confidence"].shape == (3,)
    if not amp:
        assert sure.all()


@torch.no_grad()
def test_seeded_draws_do_not_depend_on_the_neighbours_of_an_image():
    net = sharp_net()
    images = torch.rand(4, 3, 40, 33)
    inferer = JSMAInferer(Confident(), seed=3)
    together = inferer(images, net, return_attention=True)
    for i in range(4):
        alone = inferer(images[i : i + 1], net, return_attention=True)
        number = alone["cells"].shape[1]
        assert torch.equal(alone["cells"][0], together["cells"][i, :number])
        torch.testing.assert_close(alone["logits"][0], together["logits"][i])
        torch.testing.assert_close(alone["confidence"][0], together["confidence"][i])
    assert Confident().draws_at_random


@torch.no_grad()
def test_an_image_whose_numbers_are_none_is_not_read_to_its_end():
    net, source = table_net(seed=0, cells=[200, 200], classes=2, size=3, attention="flat")
    source.features[1][:] = torch.nan
    source.features[0][:] = torch.eye(3)[0]
    with pytest.raises(NotFiniteError, match="image 1 of the batch: its logits are NaN or infinite"):
        read(net, source, Confident())
    assert len(source.read_cells[1]) == 1


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("confidence", [0, 1, 1.0, 0.0, -0.5, 99, "0.99", None, float("nan")])
def test_a_confidence_is_between_0_and_1(confidence):
    with pytest.raises(ValueError, match="confidence of Confident must be a number above 0 and below 1, such as 0.99"):
        Confident(confidence)


@pytest.mark.parametrize("options", [{"max_patches": 0}, {"chunk": 0}, {"max_patches": 2.5}])
def test_numbers_below_one_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} of Confident must be a whole number of at least 1, but is"):
        Confident(**options)


def test_networks_without_a_bound_are_refused():
    images = batch()
    with pytest.raises(ValueError, match=r"Certified and Confident need features of length 1 .*feature_norm"):
        read(tiny_net(feature_norm=None).eval(), images, Confident())
    assert images.patches_read == 0


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ValueError, match=r"Draws repeats what .* draws, but got Confident\("):
        Draws(Confident(), 2)
    with pytest.raises(ValueError, match=r"from Confident\(.* the attention cannot learn: train with LeaveOneOut"):
        tiny_net(sampler=Confident())
    images = batch()
    with pytest.raises(ValueError, match="reads all patches and draws none"):
        JSMAInferer(Confident())(images.thumbnails, mil_net(), pyramid=images)
