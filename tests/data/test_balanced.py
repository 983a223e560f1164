# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Balanced batches: every window of an epoch holds all classes alike, alone and in several processes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_jsma.data import BalancedSampler

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=40)


def windows(values: list[int], size: int) -> list[list[int]]:
    return [values[i : i + size] for i in range(len(values) - size + 1)]


def epoch(labels: list[int], number: int, **options) -> list[int]:
    sampler = BalancedSampler(labels, **options)
    sampler.set_epoch(number)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(0, 3), st.integers(1, 12))
def test_in_any_batch_the_classes_differ_by_one_at_most(labels, number, size):
    indices = epoch(labels, number)
    classes = set(labels)
    assert len(labels) <= len(indices) < len(labels) + len(classes)
    for window in windows([labels[i] for i in indices], size):
        counts = Counter(dict.fromkeys(classes, 0))
        counts.update(window)
        assert max(counts.values()) - min(counts.values()) <= 1
    for own in classes:  # no picture comes again before all others of its class have come as often
        times = Counter({i: 0 for i, y in enumerate(labels) if y == own})
        times.update(i for i in indices if labels[i] == own)
        assert max(times.values()) - min(times.values()) <= 1


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(1, 4), st.integers(0, 2))
def test_processes_share_what_one_would_take(labels, replicas, number):
    alone = epoch(labels, number, seed=3)
    parts = [epoch(labels, number, seed=3, num_replicas=replicas, rank=rank) for rank in range(replicas)]
    assert len({len(part) for part in parts}) == 1
    together = [i for step in zip(*parts) for i in step]
    assert together[: len(alone)] == alone
    assert together[len(alone) :] == (alone * replicas)[: len(together) - len(alone)]  # so that none waits


def test_the_order_is_of_the_seed_and_the_epoch():
    labels = [0, 1, 2] * 10
    first, again, later, other = epoch(labels, 1), epoch(labels, 1), epoch(labels, 2), epoch(labels, 1, seed=7)
    assert first == again
    assert first != later
    assert first != other
    assert sorted(first) == sorted(later) == list(range(30))


def test_every_picture_of_a_large_class_comes_in_some_epoch():
    labels = [0] * 30 + [1] * 2
    seen = {i for number in range(12) for i in epoch(labels, number)}
    assert seen == set(range(32))


@pytest.mark.parametrize("labels", [[], [0, None]])
def test_pictures_without_labels(labels):
    with pytest.raises(ValueError, match="images that all have a label, but got"):
        BalancedSampler(labels)
