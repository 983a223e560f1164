# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""JSMANet as its own baselines: trained on all patches (Eq. 1), and without a thumbnail, hence without attention."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist
from monai.utils import set_determinism
from tiny_networks import CELLS, mil_net, ragged_batch, tiny_net
from torch.nn.parallel import DistributedDataParallel

from monai_jsma.networks import AllPatches, ConvBackbone, Pathwise, TopK, UniformAttention, log_prior

EQUAL = {"thumbnail_encoder": None, "sampler": Pathwise(3, estimator="normalized")}
ALL = {"sampler": AllPatches()}


def all_features(net, images) -> torch.Tensor:
    """Features of all cells, one patch at a time: ``(batch, cells, features)``, 0 where padded."""
    one = torch.tensor([0])
    rows = [
        torch.cat([net.patch_encoder(single.read(one, torch.tensor([c]))) for c in range(count)])
        for single, count in zip(images.singles, CELLS)
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.parametrize("chunk_size", [1000, 8])
def test_training_on_all_patches_is_equation_one(chunk_size):
    net = tiny_net(**ALL, chunk_size=chunk_size)
    thumbnails, images = ragged_batch()
    output, parameters = net(thumbnails, images, return_attention=True), list(net.parameters())
    found = torch.autograd.grad(output["logits"].square().sum(), parameters)
    prob = net.attend(thumbnails, images.grids).exp()
    bags = torch.stack([sum(p * f for p, f in zip(*row)) for row in zip(prob, all_features(net, images))])
    expected = net.classifier(bags)
    torch.testing.assert_close(output["logits"], expected, rtol=1e-4, atol=1e-5)
    for value, reference in zip(found, torch.autograd.grad(expected.square().sum(), parameters)):
        torch.testing.assert_close(value, reference, rtol=1e-3, atol=1e-5)
    assert images.patches_read == sum(CELLS)
    torch.testing.assert_close(output["weights"], prob)
    with torch.no_grad():  # evaluation takes all as well, unless another sampler is given
        torch.testing.assert_close(net.eval()(thumbnails, images), output["logits"])
        assert net(thumbnails, images, sampler=TopK(3), return_attention=True)["cells"].shape == (3, 3)


def test_training_on_all_patches_encodes_a_chunk_at_a_time_and_a_few_at_once():
    for sampler, expected in ((AllPatches(), [20, 20, 6, 20, 20, 6]), (Pathwise(20), [20 + 13 + 2])):
        net, seen = tiny_net(sampler=sampler, chunk_size=20), []
        net.patch_encoder.backbone.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(len(args[0])))
        net(*ragged_batch()).sum().backward()
        assert sorted(seen) == sorted(expected)


def test_of_all_patches_the_dropped_are_not_read():
    net = tiny_net(**ALL, attention_dropout=0.5)
    thumbnails, images = ragged_batch()
    weights = net(thumbnails, images, return_attention=True)["weights"]
    kept = [13 - 6, 31 - 16, 2 - 1]  # half of the cells are dropped
    assert (weights > 0).sum(1).tolist() == kept
    assert images.patches_read == sum(kept)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))


def test_uniform_attention_is_equal_for_cells_or_for_magnifications():
    grids = [((2, 2), (3, 3)), ((1, 1), (1, 1))]
    cells, levels = (UniformAttention(prior)(torch.zeros(2), grids).exp() for prior in (None, "balanced"))
    torch.testing.assert_close(cells, torch.tensor([[1 / 13] * 13, [1 / 2] * 2 + [0.0] * 11]))
    torch.testing.assert_close(levels, torch.tensor([[1 / 8] * 4 + [1 / 18] * 9, [1 / 2] * 2 + [0.0] * 11]))


@torch.no_grad()
def test_without_a_thumbnail_all_patches_are_averaged():
    net = tiny_net(**EQUAL | ALL)
    thumbnails, images = ragged_batch()
    features = all_features(net, images)
    means = torch.stack([features[i, :count].mean(0) for i, count in enumerate(CELLS)])
    for mode in (True, False):
        logits = net.train(mode)(thumbnails, images)
        torch.testing.assert_close(logits, net.classifier(means), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_without_a_thumbnail_random_patches_are_averaged(training):
    net = tiny_net(**EQUAL).train(training)
    thumbnails, images = ragged_batch()
    features, sets = all_features(net, images), set()
    for seed in range(5):
        set_determinism(seed)
        output = net(thumbnails, images, return_attention=True)
        set_determinism(seed)
        assert torch.equal(net(1 - thumbnails, images), output["logits"])  # same draws; nobody looks at the thumbnail
        for i, count in enumerate(CELLS):
            drawn = output["cells"][i][output["weights"][i] > 0]
            assert len(set(drawn.tolist())) == len(drawn) == min(3, count)
            mean = features[i][drawn].mean(0)
            torch.testing.assert_close(output["logits"][i], net.classifier(mean), rtol=1e-4, atol=1e-5)
        sets.add(tuple(output["cells"][1].tolist()))
        torch.testing.assert_close(output["log_attention"], UniformAttention()(thumbnails, images.grids))
        assert torch.equal(output["log_prior"], log_prior(images.grids))
    set_determinism(None)
    assert len(sets) == 5


@torch.no_grad()
def test_every_cell_is_drawn_equally_often():
    net, number = tiny_net(**EQUAL).eval(), 2000
    net.patch_encoder.forward = lambda patches: torch.zeros(len(patches), 16)
    torch.manual_seed(0)
    images = ragged_batch()[1]
    images.singles, thumbnails = images.singles[:1] * number, torch.zeros(number, 3, 16, 16)
    images.read = lambda pictures, cells: torch.zeros(len(cells), 3, 8, 8)
    cells = net(thumbnails, images, return_attention=True)["cells"]
    expected = number * 3 / CELLS[0]
    chi_square = ((cells.flatten().bincount(minlength=CELLS[0]) - expected) ** 2 / expected).sum()
    assert chi_square < 30  # 12 degrees of freedom: 99.7 %


@pytest.fixture
def process_group():
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(
    "make",
    [mil_net, partial(tiny_net, **ALL), partial(tiny_net, **EQUAL)],
    ids=["attention_mil", "all_patches", "random_patches"],
)
def test_processes_train_together(make):
    """Every parameter has a gradient, and it arrives once, though chunks are encoded twice: else DDP would complain."""
    net = make(chunk_size=20)
    thumbnails, images = ragged_batch()
    torch.manual_seed(1)
    net(thumbnails, images).square().sum().backward()
    alone = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    together = DistributedDataParallel(net)
    for _ in range(2):  # the second pass finds out what the first left
        net.zero_grad()
        torch.manual_seed(1)
        together(thumbnails, images).square().sum().backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], alone)


def test_without_a_thumbnail_only_patches_are_learned_from():
    names = [name for name, _ in tiny_net(**EQUAL).named_parameters()]
    assert all(name.startswith(("patch_encoder.", "classifier.")) for name in names)


def test_weights_without_a_thumbnail_are_those_of_the_patches(tmp_path):
    net = tiny_net(**EQUAL, patch_encoder="test_resnet", patch_size=32)
    path, state = tmp_path / "weights.pth", net.patch_encoder.backbone.model.state_dict()
    torch.save({name: value + 1 for name, value in state.items()}, path)
    before = {name: value.clone() for name, value in state.items()}
    net.load_weights(str(path))
    assert all(torch.equal(net.patch_encoder.backbone.model.state_dict()[name], before[name] + 1) for name in before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thumbnail_encoder": None, "patch_encoder": None}, "name a patch_encoder"),
        ({"thumbnail_encoder": None, "level_prior": "flat"}, "unknown level_prior 'flat'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_net(**{"patch_encoder": ConvBackbone((8, 16)), **options})


def test_no_cell_of_uniform_attention_is_the_highest():
    thumbnails, images = ragged_batch()
    with pytest.raises(ValueError, match=r"none has the highest: .* a sampler that draws, such as Pathwise\(k=3"):
        tiny_net(**EQUAL).eval()(thumbnails, images, sampler=TopK(3))
    assert images.patches_read == 0
