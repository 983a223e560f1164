# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Plans of mosaics: cores lie inside their places, labels follow the rule, numbers and shares are those asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_jsma.datalists.mosaic import ALIGNMENT, Core, MosaicSettings, find_side, plan_mosaics


def make_cores(num_positive: int, num_other: int, seed: int = 0) -> list[Core]:
    rng = np.random.default_rng(seed)
    cores = []
    for i in range(num_positive + num_other):
        size = tuple(rng.integers(20, 60, 2).tolist())
        cores.append(Core(name=f"{i}.png", group=f"P{i}", is_positive=i < num_positive, size=size))
    return cores


@st.composite
def cases(draw) -> tuple[list[Core], MosaicSettings]:
    """A set of cores and settings that it allows."""
    cores = make_cores(draw(st.integers(1, 8)), draw(st.integers(1, 8)), seed=draw(st.integers(0, 99)))
    rule = draw(st.sampled_from(["any", "majority"]))
    grid = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    blank = draw(st.floats(0, 0.95))
    num_cores = MosaicSettings(grid=grid, blank=blank, positive=(1.0,)).num_cores
    fewest = 1 if rule == "any" else num_cores // 2 + 1
    counts = draw(st.lists(st.integers(fewest, num_cores), min_size=1, max_size=3))
    limit = draw(st.none() | st.integers(2, 6))
    seed = draw(st.integers(0, 99))
    made = MosaicSettings(grid=grid, blank=blank, positive=tuple(counts), rule=rule, cores_per_picture=limit, seed=seed)
    return cores, made


def plan(case, number: int = 8, stream: int = 0):
    cores, made = case
    side = find_side([core.size for core in cores], made.margin)
    return side, plan_mosaics(cores, made, number, side=side, stream=stream)


@given(cases())
@settings(max_examples=80, deadline=None)
def test_no_two_cores_overlap_and_each_lies_in_its_place(case):
    side, plans = plan(case)
    for mosaic in plans:
        painted = np.zeros(mosaic.size, int)
        for placed in mosaic.cores:
            row, col, height, width = placed.box
            painted[row : row + height, col : col + width] += 1
            assert (row // side, col // side) == placed.place
            assert ((row + height - 1) // side, (col + width - 1) // side) == placed.place
            expected = placed.core.size[::-1] if placed.orientation & 4 else placed.core.size
            assert (height, width) == expected
        assert painted.max() == 1


@given(cases())
@settings(max_examples=80, deadline=None)
def test_numbers_of_cores_and_the_label_follow_the_settings(case):
    cores, made = case
    _, plans = plan(case)
    rows, cols = made.grid
    for index, mosaic in enumerate(plans):
        num_cores = len(mosaic.cores)
        assert num_cores == max(1, rows * cols - round(rows * cols * made.blank))
        num_positive = sum(placed.core.is_positive for placed in mosaic.cores)
        asked = made.positive[index // 2 % len(made.positive)]
        assert mosaic.label == index % 2
        if made.rule == "any":
            assert num_positive == (asked if mosaic.label else 0)
        else:
            assert (num_positive if mosaic.label else num_cores - num_positive) == asked
            assert (2 * num_positive > num_cores) == bool(mosaic.label)
        if made.cores_per_picture:
            assert len({placed.core.name for placed in mosaic.cores}) <= made.cores_per_picture


@given(cases())
@settings(max_examples=80, deadline=None)
def test_the_deciding_cores_and_their_share_of_the_area(case):
    _, made = case
    _, plans = plan(case)
    for mosaic in plans:
        painted = np.zeros(mosaic.size, bool)
        for placed in mosaic.cores:
            decides = (
                placed.core.is_positive if mosaic.label else made.rule == "majority" and not placed.core.is_positive
            )
            assert placed.decides == decides
            row, col, height, width = placed.box
            painted[row : row + height, col : col + width] = decides
        assert mosaic.deciding_share == pytest.approx(painted.mean())
        assert len(mosaic.deciding) == sum(placed.decides for placed in mosaic.cores)


@given(cases(), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_the_number_of_mosaics_changes_none_and_sets_differ(case, number):
    _, plans = plan(case)
    assert plan(case, number)[1] == plans[:number]


def test_sets_of_other_numbers_and_seeds_differ():
    cores = make_cores(5, 5)
    base = plan((cores, MosaicSettings()))[1]
    assert plan((cores, MosaicSettings()), stream=1)[1] != base
    assert plan((cores, MosaicSettings(seed=1)))[1] != base


def test_all_cores_are_used_about_equally_often():
    cores = make_cores(7, 11)
    _, plans = plan((cores, MosaicSettings(grid=(3, 3), positive=(2,))), number=60)
    counts = Counter(placed.core.name for mosaic in plans for placed in mosaic.cores)
    of_positive = [counts[core.name] for core in cores if core.is_positive]
    of_other = [counts[core.name] for core in cores if not core.is_positive]
    assert max(of_positive) - min(of_positive) <= 1
    assert max(of_other) - min(of_other) <= 1
    for mosaic in plans:  # more than enough cores: none is there twice
        assert len({placed.core.name for placed in mosaic.cores}) == len(mosaic.cores)


def test_orientations_places_and_offsets_vary():
    _, plans = plan((make_cores(3, 3), MosaicSettings(grid=(4, 4))), number=40)
    placed = [one for mosaic in plans for one in mosaic.cores]
    assert {one.orientation for one in placed} == set(range(8))
    assert len({one.place for one in placed}) == 16
    assert len({(one.box.row % 64, one.box.col % 64) for one in placed}) > 20


@given(cases())
@settings(max_examples=30, deadline=None)
def test_centered_cores_lie_in_the_middle_of_their_places(case):
    cores, made = case
    side, free = plan(case)
    _, centered = plan((cores, replace(made, centered=True)))
    for mosaic in centered:
        for placed in mosaic.cores:
            row, col, height, width = placed.box
            assert row % side == (side - height) // 2
            assert col % side == (side - width) // 2
    assert [mosaic.label for mosaic in free] == [mosaic.label for mosaic in centered]
    assert [len(mosaic.cores) for mosaic in free] == [len(mosaic.cores) for mosaic in centered]


@pytest.mark.parametrize(
    ("positive", "numbers"),
    [((1,), [1, 1, 1]), ((0.5, 0.25, 0.1), [22, 11, 4]), ((0.001,), [1, 1, 1]), ((1.0,), [45] * 3)],
)
def test_shares_of_the_cores(positive, numbers):
    made = MosaicSettings(grid=(8, 8), blank=0.3, positive=positive)
    assert made.num_cores == 45
    assert [made.count_positive(1, turn) for turn in range(3)] == numbers
    assert made.count_positive(0, 0) == 0


def test_a_place_has_room_for_every_core():
    assert find_side([(1031, 1000), (900, 800)], 0.1) == 1152
    assert find_side([(64, 10)], 0) == 64
    assert find_side([(65, 10)], 0) == 2 * ALIGNMENT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": (0, 3)}, "at least 1 row"),
        ({"blank": 1.0}, "blank share"),
        ({"blank": float("nan")}, "blank share"),
        ({"rule": "most"}, "any or majority"),
        ({"margin": -0.1}, "margin"),
        ({"seed": -1}, "seed"),
        ({"cores_per_picture": 1}, "2 different"),
        ({"positive": ()}, "missing"),
        ({"positive": (0,)}, "1 to 6 positive"),
        ({"positive": (7,)}, "1 to 6 positive"),
        ({"positive": (1.5,)}, "share"),
        ({"positive": (3,), "rule": "majority"}, "4 to 6 positive"),
        ({"positive": (0.5,), "rule": "majority"}, "0.5 = 3"),
    ],
)
def test_settings_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        MosaicSettings(**arguments)


@pytest.mark.parametrize("numbers", [(0, 5), (5, 0)])
def test_a_set_without_one_kind(numbers):
    with pytest.raises(ValueError, match="both are needed"):
        plan((make_cores(*numbers), MosaicSettings()))
