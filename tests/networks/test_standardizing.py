# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Standardized features: statistics of all patches of the training, whatever their batches; length 1; certified."""

from __future__ import annotations

from multiprocessing import get_context

import pytest
import torch
from certified_cases import worst_features
from feature_cases import ask, frozen, load, thumbnails
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import CELLS, mil_net, ragged_batch, tiny_net
from torch import Tensor, distributed, nn

from monai_jsma.networks import AllPatches, Certified, FeatureStandardizer, PatchEncoder
from monai_jsma.networks.standardizing import standardize_map, unit_length

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 1)


def random_features(n: int, seed: int = 0) -> Tensor:
    """Features as those of photographs are on tissue: a common direction, and channels of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    return 5 + torch.randn(n, 4, generator=generator) * torch.tensor([0.1, 1.0, 3.0, 20.0])


def standardize_slowly(features: Tensor, seen: Tensor) -> Tensor:
    """With the statistics of ``seen``, in float64."""
    variance, mean = torch.var_mean(seen.double(), dim=0, correction=0)
    return (features.double() - mean) / (variance + 1e-3 * variance.mean()).sqrt()


@settings(max_examples=50, deadline=None)
@given(SIZES, st.integers(0, 2**32 - 1))
def test_the_statistics_are_those_of_all_patches_so_far_in_whatever_batches(sizes, seed):
    features = random_features(sum(sizes), seed)
    layer = FeatureStandardizer(4)
    for batch in features.split(sizes):
        found = layer(batch)
    variance, mean = torch.var_mean(features.double(), dim=0, correction=0)
    torch.testing.assert_close(layer.mean.double(), mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.variance.double(), variance, rtol=1e-3, atol=1e-3)
    assert layer.num_patches == len(features)
    expected = standardize_slowly(features[len(features) - sizes[-1] :], features)
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)


def test_old_patches_count_less_once_there_are_many():
    layer = FeatureStandardizer(1)
    for _ in range(20):
        layer(torch.zeros(1000, 1))
    layer(torch.ones(1000, 1))
    assert layer.mean.item() == pytest.approx(1000 / 11_000)
    assert layer.variance.item() == pytest.approx(10 / 11 * 1 / 11)


def test_nothing_moves_in_evaluation_and_the_statistics_belong_to_the_weights():
    layer = FeatureStandardizer(4)
    layer(random_features(30))
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    assert state.keys() == {"mean", "variance", "num_patches"}
    layer.eval()(random_features(9, seed=1))
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    other = FeatureStandardizer(4).eval()
    other.load_state_dict(state)
    assert torch.equal(other(random_features(5, seed=2)), layer(random_features(5, seed=2)))


def test_a_patch_that_is_not_finite_spoils_no_other():
    layer, features = FeatureStandardizer(4), random_features(6)
    spoiled = features.clone()
    spoiled[2, 1] = float("inf")
    spoiled[4, 0] = float("nan")
    layer(spoiled)
    expected = FeatureStandardizer(4)
    expected(features[[0, 1, 3, 5]])
    torch.testing.assert_close(layer.mean, expected.mean)
    torch.testing.assert_close(layer.variance, expected.variance)
    assert layer.num_patches == 4


def test_a_channel_that_hardly_varies_decides_nothing():
    layer = FeatureStandardizer(2)
    layer(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    found = layer.eval()(torch.tensor([[3.0, 5.01]]))
    assert found.abs()[0].tolist() == [pytest.approx(2.0, rel=0.01), pytest.approx(0.01 / 5e-4**0.5, rel=0.01)]


def test_statistics_have_no_gradient_and_are_in_full_precision():
    layer, features = FeatureStandardizer(4), random_features(8).half().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(features)
        assert found.dtype == torch.float32
    found.sum().backward()
    deviation = (layer.variance + 1e-3 * layer.variance.mean()).sqrt()
    torch.testing.assert_close(features.grad.float(), (1 / deviation).expand(8, 4), rtol=1e-3, atol=1e-3)


def _standardize_a_part(rank: int, store: str, results: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    layer = FeatureStandardizer(4)
    for batch in random_features(20).split((6, 4, 10)):
        layer(batch[:3] if rank == 0 else batch[3:])
    layer(random_features(3, seed=1) if rank == 0 else torch.zeros(0, 4))  # one process has drawn nothing
    torch.save(layer.state_dict(), f"{results}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_have_the_statistics_of_both(tmp_path):
    context = get_context("fork")
    arguments = (str(tmp_path / "store"), str(tmp_path))
    processes = [context.Process(target=_standardize_a_part, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    alone = FeatureStandardizer(4)
    for batch in (*random_features(20).split((6, 4, 10)), random_features(3, seed=1)):
        alone(batch)
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value)


# -------------------------------------------------------------------------------------------------------- in a network


def test_each_place_of_a_map_is_standardized_over_all_places():
    features = random_features(2 * 3 * 5).view(2, 3, 5, 4)
    layer = FeatureStandardizer(4)
    found = standardize_map(features.permute(0, 3, 1, 2), layer)
    expected = standardize_slowly(features.reshape(-1, 4), features.reshape(-1, 4))
    expected = 2 * expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.permute(0, 2, 3, 1).reshape(-1, 4).double(), expected, rtol=1e-3, atol=1e-3)


def test_a_network_standardizes_over_the_patches_it_draws():
    net = tiny_net(feature_norm="standardized", sampler=AllPatches(), thumbnail_norm="standardized")
    image, batch = ragged_batch()
    net.train()(image, batch)
    pairs = torch.tensor([(i, cell) for i, n in enumerate(CELLS) for cell in range(n)])
    with torch.no_grad():
        features = net.patch_encoder.pool(batch.read(pairs[:, 0], pairs[:, 1]))
        places = net.thumbnail_encoder(image).permute(0, 2, 3, 1).reshape(-1, 8)
    encoder = net.eval().patch_encoder
    assert encoder.standardizer.num_patches == sum(CELLS)
    expected = unit_length(standardize_slowly(features, features).float())
    torch.testing.assert_close(encoder.normalize(features), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(net.thumbnail_standardizer.mean, places.mean(dim=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk_size", [64, 8])
def test_patches_that_are_encoded_again_for_the_gradient_count_once(chunk_size):
    net = mil_net(feature_norm="standardized", chunk_size=chunk_size)
    image, batch = ragged_batch()
    net.train()(image, batch).sum().backward()
    assert net.patch_encoder.standardizer.num_patches == sum(CELLS)


def test_kept_features_follow_the_statistics(files, tmp_path):
    """What is kept is what f gives, which stays as it is while the statistics move."""
    options = {"feature_norm": "standardized", "sampler": AllPatches()}
    plain, kept = frozen(tiny_net, None, **options), frozen(tiny_net, tmp_path / "f", **options)
    for _ in range(2):
        for net in (plain, kept):
            batch = load(files[:2])
            net.train()(thumbnails(batch), batch)
        logits, _ = ask(plain, load(files))
        again, encoded = ask(kept, load(files))
        assert torch.equal(logits, again)
    assert encoded == 0
    statistics = plain.patch_encoder.standardizer
    assert torch.equal(statistics.mean, kept.patch_encoder.standardizer.mean)
    assert statistics.num_patches == 2 * sum(CELLS[:2])


def test_weights_of_another_norm_are_refused():
    weights = tiny_net(feature_norm="l2").state_dict()
    with pytest.raises(ValueError, match="trained with feature_norm = 'l2', but the network has 'standardized'"):
        tiny_net(feature_norm="standardized").load_state_dict(weights)
    for norm in (None, "l2"):
        assert not any("standardizer" in name for name in tiny_net(feature_norm=norm).state_dict())
    weights = tiny_net(thumbnail_norm="standardized").state_dict()
    with pytest.raises(ValueError, match="trained with thumbnail_norm = 'standardized', but the network has 'None'"):
        tiny_net().load_state_dict(weights)


@pytest.mark.parametrize("name", ["feature_norm", "thumbnail_norm"])
def test_norms_that_are_not_offered(name):
    with pytest.raises(ValueError, match=f"unknown {name} 'zscore'; choose .*standardized"):
        tiny_net(**{name: "zscore"})


# -------------------------------------------------------------------------------------------------------- certificates


class WrittenFeatures(nn.Module):
    """A backbone that ends with ReLU and gives what stands in its table, so that a test can exchange it."""

    num_features = 4
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, patches: Tensor) -> Tensor:
        return self.table[(patches[:, 0, 0, 0] * 255).round().long()]


class NumberedPatches:
    """One image of one row of cells, each patch the number of its cell; it knows which were read."""

    def __init__(self, cells: int) -> None:
        self.grids = [((1, cells),)]
        self.was_read: set[int] = set()

    def read(self, images: Tensor, cells: Tensor) -> Tensor:
        self.was_read |= set(cells.tolist())
        return cells.to(torch.uint8)[:, None, None, None].expand(-1, 3, 1, 1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    cells=st.integers(2, 12),
    classes=st.integers(2, 4),
    weight=st.sampled_from([0.1, 1.0, 10.0]),
)
@torch.no_grad()
def test_a_certified_label_is_that_of_all_patches_whatever_the_others_show(seed, cells, classes, weight):
    """Features are standardized, so those of a backbone that ends with ReLU may be negative in any direction."""
    torch.manual_seed(seed)
    table = 3 * torch.rand(cells, 4)
    encoder = PatchEncoder(WrittenFeatures(table), feature_norm="standardized")
    net = tiny_net(num_classes=classes, magnifications=(1.0,), patch_encoder=encoder)
    encoder.normalize(3 * torch.rand(100, 4))
    net.eval()
    nn.init.normal_(net.classifier.weight, std=weight)
    image, source = torch.rand(1, 3, 16, 16), NumberedPatches(cells)
    found = net(image, source, sampler=Certified(), return_attention=True)
    label = found["logits"].argmax(1)
    low, high = found["intervals"].double().unbind(2)

    unseen = sorted(set(range(cells)) - source.was_read)
    statistics = encoder.standardizer
    deviation = (statistics.variance + 1e-3 * statistics.variance.mean()).sqrt()
    for a in range(classes):
        for b in range(classes):
            worst = worst_features(net.classifier.weight, a, b, False) if a != b else torch.zeros(4)
            table[unseen] = statistics.mean + 100 * worst * deviation  # standardized, this is the worst of length 1
            logits = net(image, source, sampler=AllPatches())
            if found["certified"].item():
                assert logits.argmax(1) == label
            prob = logits.double().softmax(1)
            assert (prob >= low - 1e-6).all()
            assert (prob <= high + 1e-6).all()


def test_standardized_features_of_a_relu_are_not_taken_for_positive():
    encoders = [tiny_net(feature_norm=norm).patch_encoder for norm in ("l2", "standardized")]
    assert [encoder.backbone.non_negative for encoder in encoders] == [True, True]
    assert [encoder.non_negative for encoder in encoders] == [True, False]
