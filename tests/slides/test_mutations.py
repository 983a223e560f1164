# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Mutated files: none crashes or hangs a process, takes much memory, or is read differently where others refuse it.

This is the fast part of the run; the whole is ``python tests/helpers/mutations.py``.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence

import pytest
from corpus import VENDOR_SLIDES
from mutations import CORPUS, MAX_BYTES, list_mutants, run_mutants


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods() or not sys.platform.startswith("linux"),
    reason="the limits of memory are those of Linux",
)
@pytest.mark.parametrize(("number", "cases"), [(60, CORPUS), (27, list(VENDOR_SLIDES))], ids=["files", "vendors"])
def test_mutants(number: int, cases: Sequence[str]) -> None:
    outcomes = list(run_mutants(list_mutants(number, cases=cases)))
    assert len(outcomes) == number
    faults = [outcome for outcome in outcomes if outcome.kind in ("crash", "hang", "silent")]
    assert not faults
    assert max(outcome.peak_bytes for outcome in outcomes) < MAX_BYTES
    errors = [outcome for outcome in outcomes if outcome.kind == "error"]
    assert len(errors) > number // 4
    assert all("/mutant" in outcome.message for outcome in errors)  # names the file


def test_every_vendor_slide_is_mutated_in_every_way() -> None:
    mutants = list_mutants(54, cases=VENDOR_SLIDES)
    assert len({(mutant.case, mutant.damage) for mutant in mutants}) == 54


def test_the_mutants_are_always_the_same() -> None:
    assert list_mutants(720) == list_mutants(720)
    assert len({(mutant.case, mutant.damage, mutant.seed) for mutant in list_mutants(720)}) == 720
