# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Proof by enumeration: in the mean over all paths, loss and divergence have the gradient of their expected values.

Everything is float64 and compared to 1e-12 with sums over all leaves of small ragged trees.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from enumeration import every_draw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from zoom_cases import TableWindows, TableZoomNet, number_cells

from monai_jsma.losses import JSMALoss
from monai_jsma.networks import (
    AllPatches,
    Certified,
    Confident,
    Draw,
    Draws,
    LeaveOneOut,
    Pathwise,
    TopK,
    ZoomTree,
    zoom_tree,
)

RAGGED = [[2, 1], None, [3]]  # three stages
TWO_STAGES = [3, 1, None, 2]
SLIDES = {"two stages": TWO_STAGES, "three stages": RAGGED, "one region": [4], "one path": [[1]]}
ALPHA = 0.3
EXACT = {"rtol": 0, "atol": 1e-12}


def gradients(value, net):
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(value, [p for _, p in named], allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named, found)}


def every_outcome(net, slide, k, monkeypatch):
    """Output of the network for every k-tuple of paths, one a row, and the probability of each."""
    cells, log_prob, _ = net.flat([slide], 0)
    tuples = list(product(range(len(cells)), repeat=k))
    steps = torch.tensor([[cells[i][1:] for i in chosen] for chosen in tuples])  # (outcomes, k, stages)
    actions = iter(steps.flatten(0, 1).unbind(1))
    monkeypatch.setattr(zoom_tree, "draw_independently", lambda rows, number: next(actions)[:, None])
    slides = TableWindows([slide] * len(tuples))
    slides.numbers = {(i, *cell[1:]): n for n, cell in enumerate(cells) for i in range(len(tuples))}
    net.priors |= {(i, *path[1:]): prior for path, prior in list(net.priors.items()) for i in range(len(tuples))}
    logits = net.logits
    net.logits = _OfFirstSlide(logits)
    output = net(torch.zeros(len(tuples), 3, 8, 8), slides, return_attention=True)
    net.logits = logits
    chances = log_prob.detach().exp()[torch.tensor(tuples)].prod(dim=1)
    return output, chances, slides


class _OfFirstSlide(torch.nn.Module):
    """The tables of slide 0 for all slides."""

    def __init__(self, tables):
        super().__init__()
        self.tables = tables

    def __getitem__(self, path):
        first, rest = path.split(",", 1)
        return self.tables[f"(0,{rest}"]


def expected_loss(net, slide, k, label):
    """Sum over all k-tuples of cells of their probability times the loss of the mean of their features."""
    cells, log_prob, _ = net.flat([slide], 0)
    features = net.features_of([slide], cells)
    tuples = torch.tensor(list(product(range(len(cells)), repeat=k)))
    logits = net.classifier(features[tuples].mean(dim=1))
    loss = cross_entropy(logits, torch.full((len(tuples),), label), reduction="none")
    return (log_prob.exp()[tuples].prod(dim=1) * loss).sum()


def regularizer_of_all(net, slide, kind):
    _, log_prob, log_prior = net.flat([slide], 0)
    relative = log_prob if kind == "entropy" else log_prob - log_prior
    return (log_prob.exp() * relative).sum()


@pytest.mark.parametrize("slide", SLIDES.values(), ids=SLIDES)
def test_probabilities_of_all_cells_sum_to_one(slide):
    net = TableZoomNet([slide]).eval()
    with torch.no_grad():
        output = net(torch.zeros(1, 3, 8, 8), TableWindows([slide]), return_attention=True, sampler=AllPatches())
    torch.testing.assert_close(output["log_attention"].exp().sum().item(), 1.0, **EXACT)
    torch.testing.assert_close(output["log_prior"].exp().sum().item(), 1.0, **EXACT)


@pytest.mark.parametrize("regularizer", ["kl", "entropy"])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("slide", SLIDES.values(), ids=SLIDES)
def test_the_gradient_is_that_of_the_expected_loss_and_of_the_joint_divergence(slide, k, regularizer, monkeypatch):
    net = TableZoomNet([slide], sampler=LeaveOneOut(k))
    output, chances, slides = every_outcome(net, slide, k, monkeypatch)
    torch.testing.assert_close(chances.sum().item(), 1.0, **EXACT)
    label = 1
    criterion = JSMALoss(ALPHA, regularizer)
    total = 0.0
    for number, chance in enumerate(chances):
        one = {name: value[number : number + 1] for name, value in output.items()}
        total = total + chance * criterion(one, torch.tensor([label]))

    loss = expected_loss(net, slide, k, label)
    reference = loss + ALPHA * regularizer_of_all(net, slide, regularizer)
    torch.testing.assert_close(total.detach(), reference.detach(), **EXACT)
    ours, theirs = gradients(total, net), gradients(reference, net)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, **EXACT, msg=name)
    assert max(slides.looked_at.values()) == 1
    assert max(slides.read_cells.values()) == 1


def regularizer_of_zoom(net, slide, kind):
    """What all stages but the last have of the regularizer, summed over all cells."""
    cells, log_prob, _ = net.flat([slide], 0)
    total = 0.0
    for cell, log_p in zip(cells, log_prob):
        for length in range(1, len(cell) - 1):
            path, action = cell[:length], cell[length]
            prior = net.priors[path]
            logits = net.logits[str(path)].masked_fill(prior == float("-inf"), float("-inf"))
            relative = logits.log_softmax(0)[action]
            if kind == "kl":
                relative = relative - prior[action]
            total = total + log_p.exp() * relative
    return total


@pytest.mark.parametrize("regularizer", ["kl", "entropy"])
@pytest.mark.parametrize("slide", SLIDES.values(), ids=SLIDES)
def test_the_choice_of_regions_may_have_its_own_weight(slide, regularizer, monkeypatch):
    net = TableZoomNet([slide], sampler=LeaveOneOut(2))
    output, chances, _ = every_outcome(net, slide, 2, monkeypatch)
    criterion = JSMALoss(ALPHA, regularizer, zoom_alpha=5 * ALPHA)
    total = 0.0
    for number, chance in enumerate(chances):
        one = {name: value[number : number + 1] for name, value in output.items()}
        total = total + chance * criterion(one, torch.tensor([1]))
    of_all = regularizer_of_all(net, slide, regularizer)
    reference = expected_loss(net, slide, 2, 1) + ALPHA * of_all
    reference = reference + 4 * ALPHA * regularizer_of_zoom(net, slide, regularizer)
    torch.testing.assert_close(total.detach(), reference.detach(), **EXACT)
    ours, theirs = gradients(total, net), gradients(reference, net)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, **EXACT, msg=name)


def test_a_network_that_draws_no_regions_has_no_weight_for_them():
    with pytest.raises(ValueError, match="zoom_alpha 0.3 differs from alpha 0.01"):
        JSMALoss(zoom_alpha=0.3)({"logits": torch.zeros(1, 2), "log_attention": torch.zeros(1, 1)}, torch.tensor([0]))


@pytest.mark.parametrize("slide", SLIDES.values(), ids=SLIDES)
def test_the_bag_of_paths_is_unbiased(slide, monkeypatch):
    """Pathwise: in the mean the logits, which are linear in the bag, and their gradients are those of all patches."""
    net = TableZoomNet([slide], sampler=Pathwise(2, estimator="with_replacement"))
    output, chances, _ = every_outcome(net, slide, 2, monkeypatch)
    cells, log_prob, _ = net.flat([slide], 0)
    reference = net.classifier(log_prob.exp() @ net.features_of([slide], cells))
    mean = chances @ output["logits"]
    torch.testing.assert_close(mean.detach(), reference.detach(), **EXACT)
    direction = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
    ours, theirs = gradients(mean @ direction, net), gradients(reference @ direction, net)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, **EXACT, msg=name)


@pytest.mark.parametrize("regularizer", ["kl", "entropy"])
@pytest.mark.parametrize("slide", SLIDES.values(), ids=SLIDES)
def test_all_patches_are_equation_one(slide, regularizer):
    net = TableZoomNet([slide], sampler=AllPatches())
    output = net(torch.zeros(1, 3, 8, 8), TableWindows([slide]), return_attention=True)
    total = JSMALoss(ALPHA, regularizer)(output, torch.tensor([2]))
    cells, log_prob, _ = net.flat([slide], 0)
    bag = log_prob.exp() @ net.features_of([slide], cells)
    reference = cross_entropy(net.classifier(bag)[None], torch.tensor([2]))
    reference = reference + ALPHA * regularizer_of_all(net, slide, regularizer)
    torch.testing.assert_close(total.detach(), reference.detach(), **EXACT)
    ours, theirs = gradients(total, net), gradients(reference, net)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, **EXACT, msg=name)


def test_draws_come_as_often_as_their_paths_are_probable():
    net = TableZoomNet([RAGGED], sampler=LeaveOneOut(20000))
    cells, log_prob, _ = net.flat([RAGGED], 0)
    torch.manual_seed(0)
    output = net(torch.zeros(1, 3, 8, 8), TableWindows([RAGGED]), return_attention=True)
    steps = torch.cat((output["regions"][0], output["cells"][0][:, None]), dim=1)
    for cell, log_p in zip(cells, log_prob.tolist()):
        share = (steps == torch.tensor(cell[1:])).all(dim=1).double().mean().item()
        p = torch.tensor(log_p).exp().item()
        assert abs(share - p) < 5 * (p * (1 - p) / 20000) ** 0.5
        drawn = (steps == torch.tensor(cell[1:])).all(dim=1)
        torch.testing.assert_close(output["drawn_log_prob"][0][drawn], torch.full((int(drawn.sum()),), log_p).double())


# ------------------------------------------------------------------------------------------------------- best first

CELLS = st.integers(1, 6)
REGIONS = st.lists(CELLS | st.none(), min_size=1, max_size=5).filter(any)
DEEP = st.lists(REGIONS | st.none(), min_size=1, max_size=4).filter(any)


def batches(deep):
    return st.lists(DEEP if deep else REGIONS, min_size=1, max_size=3)


ANY_BATCH = st.booleans().flatmap(batches)


def grow(net, slides):
    source = TableWindows(slides)
    sizes = [stage.region_size for stage in net.stages]

    def attend(stage, windows, images):
        windows.thumbnails((1, 1))
        return net.attend(stage, None, windows)

    return ZoomTree(source, sizes, attend, device=torch.device("cpu")), source


@settings(max_examples=80, deadline=None)
@given(ANY_BATCH, st.integers(0, 2**31), st.sampled_from([0.3, 2.0, 20.0]))
@torch.no_grad()
def test_best_first_is_the_order_of_all_cells(slides, seed, spread):
    net = TableZoomNet(slides, seed=seed, spread=spread)
    tree, source = grow(net, slides)
    everything = [net.flat(slides, i) for i in range(len(slides))]
    most = max(len(cells) for cells, _, _ in everything)
    wanted = torch.ones(len(slides), dtype=torch.bool)
    for number in range(1, most + 1):
        tree.reveal_best(number, wanted)
        best = tree.log_attention.sort(dim=1, descending=True).values[:, :number]
        for found, (cells, log_prob, _) in zip(best, everything):
            flat = log_prob.sort(descending=True).values[:number]
            torch.testing.assert_close(found[: len(flat)], flat, **EXACT)
            # Each region that was looked at had more than the last of these cells.
            last = flat[-1].exp().item()
            if number <= len(cells):
                looked_at = sum(path[0] == cells[0][0] and len(path) > 1 for path in source.looked_at)
                assert looked_at <= len(net.stages) / last * (1 + 1e-9)
    torch.testing.assert_close(tree.unknown.sum().item(), 0.0, rtol=0, atol=1e-9)
    tree.reveal_all()
    assert tree.unknown.tolist() == [0.0] * len(slides)
    assert max(source.looked_at.values()) == 1
    for row, (cells, log_prob, log_prior) in zip(range(len(slides)), everything):
        count = len(cells)
        torch.testing.assert_close(tree.log_attention[row].exp().sum().item(), 1.0, **EXACT)
        numbers = torch.arange(count)[None].expand(len(slides), count)
        regions, found = tree.find_regions(numbers)[row], tree.find_cells(numbers)[row]
        order = [cells.index((row, *path.tolist(), int(cell))) for path, cell in zip(regions, found)]
        torch.testing.assert_close(tree.log_attention[row, :count], log_prob[order], **EXACT)
        torch.testing.assert_close(tree.log_prior[row, :count], log_prior[order], **EXACT)


@settings(max_examples=60, deadline=None)
@given(ANY_BATCH, st.integers(0, 2**31), st.integers(1, 9))
@torch.no_grad()
def test_top_k_reads_the_k_best_cells_of_all(slides, seed, k):
    net = TableZoomNet(slides, seed=seed, spread=2.0).eval()
    source = TableWindows(slides)
    output = net(torch.zeros(len(slides), 3, 8, 8), source, return_attention=True, sampler=TopK(k))
    for row in range(len(slides)):
        cells, log_prob, _ = net.flat(slides, row)
        best = log_prob.sort(descending=True, stable=True).indices[:k]
        drawn = output["weights"][row] > 0
        steps = torch.cat((output["regions"][row][drawn], output["cells"][row][drawn][:, None]), dim=1)
        assert [tuple(step) for step in steps.tolist()] == [cells[i][1:] for i in best]
        prob = log_prob[best].exp()
        torch.testing.assert_close(output["weights"][row][drawn], prob / prob.sum(), **EXACT)
        bag = (prob / prob.sum()) @ net.features_of(slides, [cells[i] for i in best])
        torch.testing.assert_close(output["logits"][row], net.classifier(bag), rtol=0, atol=1e-10)


# --------------------------------------------------------------------------------------------------------- systematic


class _NotDrawnError(Exception):
    """The tree asks for a draw that was not given."""


def every_systematic_outcome(net, slide, sampler, drawn=()):
    """The probability and the output of every outcome, given the draws of the first stages."""
    left = list(drawn)
    asked = []

    def next_draw(log_prob, k, estimator):
        asked.append((log_prob[0], k))
        if not left:
            raise _NotDrawnError
        return left.pop(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoom_tree, "draw_cells", next_draw)
        try:
            output = net(torch.zeros(1, 3, 8, 8), TableWindows([slide]), return_attention=True, sampler=sampler)
        except _NotDrawnError:
            pass
        else:
            return [(1.0, output)]
    log_prob, k = asked[-1]
    draws, chances = every_draw(log_prob, k, "systematic")
    outcomes = []
    for cells in draws.cells.sort(dim=1).values.unique(dim=0):
        is_such = (draws.cells.sort(dim=1).values == cells).all(dim=1)
        row = int(is_such.nonzero()[0])
        draw = Draw(*(part[row : row + 1] for part in draws))
        for chance, output in every_systematic_outcome(net, slide, sampler, [*drawn, draw]):
            outcomes.append((chances[is_such].sum() * chance, output))
    return outcomes


@pytest.mark.parametrize(
    ("slide", "sampler"),
    [
        ([2, 2, None, 1], Pathwise(2, estimator="systematic")),
        ([2, 2, None, 1], Pathwise(3, estimator="systematic", max_regions=2)),
        ([[1, 2], None, [2]], Pathwise(2, estimator="systematic", max_regions=1)),
        ([[1, 1], [2, 1]], Pathwise(2, estimator="systematic", max_regions=2)),
    ],
    ids=["as many regions", "fewer regions", "one region of each stage", "three stages"],
)
def test_cells_of_systematic_regions_are_unbiased(slide, sampler):
    """In the mean over all outcomes each cell has its P as weight, and the logits are those of all patches."""
    net = TableZoomNet([slide], spread=1.5).eval()
    cells, log_prob, _ = net.flat([slide], 0)
    with torch.no_grad():
        outcomes = every_systematic_outcome(net, slide, sampler)
        reference = net.classifier(log_prob.exp() @ net.features_of([slide], cells))
    weights = torch.zeros_like(log_prob)
    logits = torch.zeros_like(reference)
    for chance, output in outcomes:
        logits = logits + chance * output["logits"][0]
        for path, cell, weight in zip(output["regions"][0], output["cells"][0], output["weights"][0]):
            if weight > 0:
                weights[cells.index((0, *path.tolist(), int(cell)))] += chance * weight
    torch.testing.assert_close(sum(chance for chance, _ in outcomes).item(), 1.0, **EXACT)
    torch.testing.assert_close(weights, log_prob.exp().detach(), **EXACT)
    torch.testing.assert_close(logits, reference, **EXACT)


@settings(max_examples=30, deadline=None)
@given(ANY_BATCH, st.integers(0, 2**31), st.integers(1, 9), st.none() | st.integers(1, 4))
@torch.no_grad()
def test_systematic_draws_are_different_cells_of_few_regions(slides, seed, k, max_regions):
    net = TableZoomNet(slides, seed=seed, spread=2.0).eval()
    source = TableWindows(slides)
    sampler = Pathwise(k, estimator="systematic", max_regions=max_regions)
    torch.manual_seed(seed)
    output = net(torch.zeros(len(slides), 3, 8, 8), source, return_attention=True, sampler=sampler)
    most = min(k, max_regions or k)
    assert max(source.read_cells.values()) == 1
    assert max(source.looked_at.values()) == 1
    for row in range(len(slides)):
        looked_at = [path[1:] for path in source.looked_at if path[0] == row and len(path) > 1]
        for stage in range(1, len(net.stages) + 1):
            assert sum(len(path) == stage for path in looked_at) <= most
        assert output["num_regions"][row] == len(looked_at)

        drawn = output["weights"][row] > 0
        known = [cell for cell in number_cells(slides) if cell[0] == row and cell[1:-1] in looked_at]
        assert drawn.sum() == min(k, len(known))
        assert sum(cell[0] == row for cell in source.read_cells) == min(k, len(known))
        torch.testing.assert_close(output["weights"][row].sum().item(), 1.0, **EXACT)


@settings(max_examples=30, deadline=None)
@given(ANY_BATCH, st.integers(0, 2**31))
@torch.no_grad()
def test_systematic_draws_of_all_cells_are_all_patches(slides, seed):
    net = TableZoomNet(slides, seed=seed).eval()
    thumbnails = torch.zeros(len(slides), 3, 8, 8)
    found = net(thumbnails, TableWindows(slides), sampler=Pathwise(200, estimator="systematic"))
    everything = net(thumbnails, TableWindows(slides), sampler=AllPatches())
    torch.testing.assert_close(found, everything, rtol=0, atol=1e-10)
    repeated = Draws(Pathwise(200, estimator="systematic"), 3)
    found = net(thumbnails, TableWindows(slides), sampler=repeated)
    torch.testing.assert_close(found.softmax(1).double(), everything.softmax(1), rtol=0, atol=1e-6)


def test_attention_does_not_learn_from_systematic_paths():
    with pytest.raises(ValueError, match=r"estimator='systematic'.* the attention over a slide cannot learn"):
        TableZoomNet([RAGGED], sampler=Pathwise(2, estimator="systematic"))


def test_only_systematic_draws_have_a_number_of_regions():
    with pytest.raises(ValueError, match="only the estimator 'systematic' draws so many regions"):
        Pathwise(2, estimator="with_replacement", max_regions=3)
    with pytest.raises(ValueError, match="max_regions of Pathwise must be a whole number of at least 1, but is 0"):
        Pathwise(2, estimator="systematic", max_regions=0)


# --------------------------------------------------------------------------------------------------------- certainty


@settings(max_examples=150, deadline=None)
@given(
    slides=ANY_BATCH,
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.0, 0.5, 2.0, 20.0]),
    sharpness=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
    classes=st.integers(2, 5),
    non_negative=st.booleans(),
    chunk=st.integers(1, 4),
    cap=st.none() | st.integers(1, 12),
)
@torch.no_grad()
def test_a_certified_label_is_that_of_all_patches(slides, seed, spread, sharpness, classes, non_negative, chunk, cap):
    net = TableZoomNet(
        slides,
        seed=seed,
        spread=spread,
        sharpness=sharpness,
        classes=classes,
        unit=True,
        non_negative=non_negative,
    ).eval()
    source = TableWindows(slides)
    thumbnails = torch.zeros(len(slides), 3, 8, 8)
    found = net(thumbnails, source, return_attention=True, sampler=Certified(cap, chunk=chunk))
    everything = net(thumbnails, TableWindows(slides), sampler=AllPatches())
    sure = found["certified"]
    assert torch.equal(found["logits"].argmax(1)[sure], everything.argmax(1)[sure])
    low, high = found["intervals"].unbind(2)
    prob = everything.softmax(1)
    assert (prob >= low - 1e-9).all()
    assert (prob <= high + 1e-9).all()
    assert max(source.read_cells.values()) == 1
    assert max(source.looked_at.values()) == 1

    # What was read are the first cells of the flat order, and no more than all of them.
    for row in range(len(slides)):
        cells, log_prob, _ = net.flat(slides, row)
        drawn = found["weights"][row] > 0
        assert int(drawn.sum()) == sum(cell[0] == row for cell in source.read_cells) <= min(len(cells), cap or 999)
        first = log_prob.sort(descending=True).values[: int(drawn.sum())].exp()
        torch.testing.assert_close(found["weights"][row][drawn], first / first.sum(), rtol=0, atol=1e-10)
        alone = net(
            thumbnails[:1],
            _only(slides, row),
            return_attention=True,
            sampler=Certified(cap, chunk=chunk),
        )
        assert alone["certified"].item() == sure[row].item()
        torch.testing.assert_close(alone["logits"][0], found["logits"][row], rtol=0, atol=1e-10)


class RepeatedWindows(TableWindows):
    """One slide, many times in a batch."""

    def __init__(self, slides, count):
        super().__init__(slides, [(0,)] * count)


def _only(slides, row):
    """One slide of a batch, under its number."""
    windows = TableWindows(slides)
    windows.paths = [(row,)]
    return windows


@torch.no_grad()
def test_a_slide_with_one_sure_cell_is_certain_after_one_region():
    slides = [[5, 5, 5, 5, 5, 5, 5, 5]]
    net = TableZoomNet(slides, unit=True, sharpness=5.0).eval()
    net.logits["(0,)"][3] = 50.0
    net.logits["(0, 3)"][2] = 50.0
    source = TableWindows(slides)
    found = net(torch.zeros(1, 3, 8, 8), source, return_attention=True, sampler=Certified())
    assert found["certified"].tolist() == [True]
    assert set(source.looked_at) == {(0, 3)}
    assert set(source.read_cells) == {(0, 3, 2)}
    assert found["num_regions"].tolist() == [1]


# -------------------------------------------------------------------------------------------------------- confidence


@settings(max_examples=60, deadline=None)
@given(
    slides=ANY_BATCH,
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.0, 2.0, 20.0]),
    sharpness=st.sampled_from([1e-3, 1.0, 30.0]),
    classes=st.integers(2, 4),
    chunk=st.integers(1, 4),
    cap=st.sampled_from([1, 7, 60]),
)
@torch.no_grad()
def test_a_label_that_is_sure_enough_is_that_of_all_patches(slides, seed, spread, sharpness, classes, chunk, cap):
    net = TableZoomNet(slides, seed=seed, spread=spread, sharpness=sharpness, classes=classes, unit=True).eval()
    source = TableWindows(slides)
    thumbnails = torch.zeros(len(slides), 3, 8, 8)
    sampler = Confident(1 - 1e-7, max_patches=cap, chunk=chunk)
    found = net(thumbnails, source, return_attention=True, sampler=sampler)
    everything = net(thumbnails, TableWindows(slides), sampler=AllPatches())
    sure = found["certified"]
    assert torch.equal(found["logits"].argmax(1)[sure], everything.argmax(1)[sure])
    assert max(source.read_cells.values()) == 1
    assert max(source.looked_at.values()) == 1

    for row in range(len(slides)):
        cells, log_prob, _ = net.flat(slides, row)
        is_read = found["weights"][row] > 0
        steps = torch.cat((found["regions"][row][is_read], found["cells"][row][is_read][:, None]), dim=1)
        read = [(row, *step) for step in steps.tolist()]
        assert len(read) == len(set(read)) <= cap
        assert set(read) == {cell for cell in source.read_cells if cell[0] == row}
        prob = log_prob.exp()[[cells.index(cell) for cell in read]]
        expected = prob + (1 - prob.sum()) / len(read)
        torch.testing.assert_close(found["weights"][row][is_read], expected, rtol=0, atol=2e-6)


@torch.no_grad()
def test_slides_at_the_boundary_are_certified_as_seldom_as_promised():
    """Many slides of one tree whose classes are equal; every slide draws its own paths."""
    slides = [[9, 4, 7]]
    one = TableZoomNet(slides, seed=3, spread=1.0, classes=2, unit=True).eval()
    logits = one(torch.zeros(1, 3, 8, 8), TableWindows(slides), sampler=AllPatches())
    one.classifier.bias -= logits[0]
    num_wrong = torch.zeros(2)
    for seed in range(4):
        torch.manual_seed(seed)
        found = one(
            torch.zeros(250, 3, 8, 8),
            RepeatedWindows(slides, 250),
            return_attention=True,
            sampler=Confident(0.9, max_patches=15, chunk=5),
        )
        label = found["logits"].argmax(1)
        for highest in range(2):
            num_wrong[highest] += (found["certified"] & (label != highest)).sum()
    assert (num_wrong <= 1000 * 0.1).all()


def test_a_slide_needs_a_limit():
    slides = [[2, 1]]
    net = TableZoomNet(slides, unit=True).eval()
    source = TableWindows(slides)
    with pytest.raises(ValueError, match=r"Confident\(.*max_patches=None.* without an end .*: limit it"):
        net(torch.zeros(1, 3, 8, 8), source, sampler=Confident(max_patches=None))
    assert not source.read_cells
