# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Mutated files: none crashes or hangs a process, takes much memory, or is read differently where others refuse it.

This is the fast part of the run; the whole is ``python tests/helpers/mutations.py``.
"""

from __future__ import annotations

import multiprocessing
import sys

import pytest
from mutations import MAX_BYTES, list_mutants, run_mutants

NUMBER = 60


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods() or not sys.platform.startswith("linux"),
    reason="the limits of memory are those of Linux",
)
def test_mutants() -> None:
    outcomes = list(run_mutants(list_mutants(NUMBER)))
    assert len(outcomes) == NUMBER
    faults = [outcome for outcome in outcomes if outcome.kind in ("crash", "hang", "silent")]
    assert not faults
    assert max(outcome.peak_bytes for outcome in outcomes) < MAX_BYTES
    errors = [outcome for outcome in outcomes if outcome.kind == "error"]
    assert len(errors) > NUMBER // 3
    assert all("mutant." in outcome.message for outcome in errors)  # names the file


def test_the_mutants_are_always_the_same() -> None:
    assert list_mutants(720) == list_mutants(720)
    assert len({(mutant.case, mutant.damage, mutant.seed) for mutant in list_mutants(720)}) == 720
