# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from visualize_cases import GEOMETRIES, make_evidence

from monai_jsma.handlers.picture_choice import (
    Candidate,
    PictureKey,
    choose_pictures,
    make_candidate,
    name_pictures,
)


def key_of(file, location=(0, 0)):
    return PictureKey(file, location, (9, 9))


def make_candidates(numbers, seed=0):
    """Candidates of ``(label, is_wrong): number``, with random priorities."""
    rng = np.random.default_rng(seed)
    candidates = []
    for (label, is_wrong), number in numbers.items():
        for i in range(number):
            key = key_of(f"{label}_{is_wrong}_{i}")
            candidates.append(Candidate(key, label, is_wrong, f"{rng.integers(10**9):09d}"))
    return candidates


def test_classes_take_turns_and_so_do_right_and_wrong():
    candidates = make_candidates({(0, True): 3, (0, False): 3, (1, True): 3, (1, False): 3, (2, False): 3})
    chosen = choose_pictures(candidates, 7)
    assert [(c.label, c.is_wrong) for c in chosen] == [
        (0, True), (1, False), (2, False),
        (0, False), (1, True), (2, False),
        (0, True),
    ]  # fmt: skip
    assert chosen == choose_pictures(reversed(candidates), 7)


def test_all_are_chosen_if_there_are_few():
    candidates = make_candidates({(0, True): 1, (-1, False): 2})
    assert set(choose_pictures(candidates, 9)) == set(choose_pictures(candidates, None)) == set(candidates)
    assert choose_pictures([], 4) == []


@pytest.mark.parametrize("number", [1, 2, 4, 7])
@pytest.mark.parametrize("seed", range(8))
def test_choice_from_parts_is_the_choice_from_all(number, seed):
    """Images come in batches, and from several processes; only those chosen so far are kept."""
    rng = np.random.default_rng(seed)
    numbers = {(label, is_wrong): rng.integers(5) for label in range(3) for is_wrong in (True, False)}
    candidates = make_candidates(numbers, seed)
    order = rng.permutation(len(candidates))
    parts = []
    for rank in range(2):
        kept = []
        for index in order[rank::2]:
            kept = choose_pictures([*kept, candidates[index]], number)
        parts += kept
    assert choose_pictures(parts, number) == choose_pictures(candidates, number)


def test_priority_depends_on_seed_and_image_alone():
    evidence = make_evidence(GEOMETRIES[0], scores=np.array([0.2, 0.8]), label=0)
    one, other = (make_candidate(evidence, key_of("a/b.png"), seed=seed) for seed in (0, 1))
    assert one.priority != other.priority
    assert make_candidate(evidence, key_of("elsewhere/b.png")).priority == one.priority
    assert (one.label, one.is_wrong) == (0, True)
    assert not make_candidate(make_evidence(GEOMETRIES[0], label=0), key_of("a")).is_wrong
    assert make_candidate(make_evidence(GEOMETRIES[0]), key_of("a")).label == -1


def test_names_are_short_and_differ():
    keys = [key_of("/data/x/1.png"), key_of("/data/y/2.png"), key_of("/data/y/2.png", (5, 0))]
    assert list(name_pictures(keys).values()) == ["1.png", "2.png", "2.png_r5_c0"]
    keys = [key_of("/data/x/1.png"), key_of("/data/y/1.png"), key_of("/data/y/a b.png")]
    assert list(name_pictures(keys).values()) == ["x/1.png", "y/1.png", "y/a_b.png"]
    for two in permutations((key_of("/x/a b.png"), key_of("/x/a_b.png"))):
        names = list(name_pictures(two).values())
        assert len(set(names)) == 2
    assert name_pictures([]) == {}
