# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The ``report`` command on how well uncertainty orders the errors, against orders worked out by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from report_cases import answer, record, ten, text_of, write

from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.report import make_cases


def drawn(record: PredictionRecord, apart: float) -> PredictionRecord:
    """The same prediction as the mean of two draws, apart by a part of the second probability."""
    second, first = np.argsort(record.probabilities)[-2:]
    step = np.zeros(len(record.classes))
    step[[first, second]] = apart * record.probabilities[second] * np.array([1, -1])
    both = (tuple((np.array(record.probabilities) + side * step).tolist()) for side in (1, -1))
    return replace(record, draw_probabilities=tuple(both))


def test_how_well_uncertainty_orders_the_errors(report, tmp_path):
    """Of the ten the surest, 9, is wrong, then 7, 5 and 2: by entropy. The draws disagree most about these."""
    (run,) = report(write(tmp_path / "p.jsonl", ten()))["runs"]
    by_entropy, perfect, by_chance = run["scored"]["selective"]["orders"].values()
    wrong = np.isin(np.arange(10)[::-1], (2, 5, 7, 9))
    risk = np.cumsum(wrong) / np.arange(1, 11)
    assert by_entropy["aurc"]["value"] == pytest.approx(risk.mean())
    assert by_entropy["gain"]["value"] == pytest.approx(0.4 - risk.mean())
    assert by_entropy["accuracy_50"]["value"] == pytest.approx(1 - 3 / 5)
    assert by_entropy["accuracy_80"]["value"] == pytest.approx(1 - 4 / 8)
    assert perfect["aurc"]["value"] == pytest.approx(sum((1 / 7, 2 / 8, 3 / 9, 4 / 10)) / 10)
    assert perfect["accuracy_50"]["value"] == 1
    assert (by_chance["aurc"]["value"], by_chance["gain"]["value"]) == (0.4, 0)
    assert by_entropy == {**by_entropy, "aurc": run["scored"]["scores"]["aurc"]}
    curve = run["scored"]["selective"]["curves"]["predictive_entropy"]
    assert (curve["coverage"], curve["risk"]) == ((np.arange(1, 11) / 10).tolist(), pytest.approx(risk.tolist()))
    assert "Mutual information" not in text_of(tmp_path / "out" / "report.html")
    draws = [drawn(record, i in (2, 5, 7, 9)) for i, record in enumerate(ten())]
    (run,) = report(write(tmp_path / "p.jsonl", draws))["runs"]
    orders = run["scored"]["selective"]["orders"]
    assert list(orders) == ["predictive_entropy", "mutual_information", "perfect", "random"]
    assert orders["predictive_entropy"] == by_entropy
    assert orders["mutual_information"] == orders["perfect"]
    shown = text_of(tmp_path / "out" / "report.html")
    assert "Does it know when it is wrong?" in shown
    assert re.search(r"Mutual information 0\.113 \[.*?\] 0\.287 \[.*?\] 100\.0 % \[.*?\] 75\.0 %", shown)
    assert (tmp_path / "out" / "risk_coverage.png").read_bytes().startswith(b"\x89PNG")


def test_intervals_of_an_order_are_of_whole_groups(report, tmp_path):
    """Of two groups alike in all, one wholly wrong and surer: resamples hold both, or one of them twice."""
    records = [answer(0, int(i < 2), i, sure=0.9 - 0.1 * i, group=f"P{i // 2}") for i in range(4)]
    (run,) = report(write(tmp_path / "p.jsonl", records), resamples=400)["runs"]
    orders = run["scored"]["selective"]["orders"]
    mixed = (1 + 1 + 2 / 3 + 2 / 4) / 4
    assert orders["predictive_entropy"]["aurc"] == {
        "value": pytest.approx(mixed),
        "low": 0,
        "high": 1,
        "resamples": 400,
    }
    gain = orders["predictive_entropy"]["gain"]  # 0 where all are right or all are wrong
    assert (gain["value"], gain["low"], gain["high"]) == pytest.approx((0.5 - mixed, 0.5 - mixed, 0))


@pytest.mark.parametrize(
    ("right", "told"),
    [(True, "No prediction is wrong here"), (False, "Every prediction is wrong here, so no order is better")],
)
def test_where_no_order_matters_it_is_said(report, tmp_path, right, told):
    records = [answer(i % 4, (i + (not right)) % 4, i, sure=0.6 + i / 100) for i in range(8)]
    (run,) = report(write(tmp_path / "p.jsonl", records))["runs"]
    for found in run["scored"]["selective"]["orders"].values():
        assert [e["value"] for e in found.values()] == [1 - right, 0, right, right]
    assert told in text_of(tmp_path / "out" / "report.html")


def test_units_of_several_regions_are_as_uncertain_as_their_mean():
    one, two = (drawn(record("s.tif", 0, p, location=(0, i)), a) for i, (p, a) in enumerate(
        [((0.5, 0.5, 0, 0), 1), ((0.9, 0.1, 0, 0), 0)]
    ))  # fmt: skip
    found = make_cases([one, two], "file").uncertainties
    assert found["predictive_entropy"] == pytest.approx([-(0.7 * np.log(0.7) + 0.3 * np.log(0.3))])
    assert found["mutual_information"] == pytest.approx([np.log(2) / 2])
    without = record("t.tif", 0, (1, 0, 0, 0))
    assert list(make_cases([one, two, without]).uncertainties) == ["predictive_entropy"]
