# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Reports of grades and of several labels, compared with scikit-learn and by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_cases import record, text_of, write
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    mean_absolute_error,
    precision_score,
    recall_score,
    roc_auc_score,
)

from monai_jsma.__main__ import main
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.predictions.tables import patient_table, prediction_table, slide_table
from monai_jsma.report import Settings, compute_scores, make_cases
from monai_jsma.report.experiment import RunFiles, write_experiment
from monai_jsma.viewer.descriptions import describe_page
from monai_jsma.visualize import choose_records
from monai_jsma.visualize.captions import describe_answer
from monai_jsma.visualize.geojson import feature_collection

THRESHOLDS = (0.5, 0.3, 0.6)
GRADES = ((0.7, 0.2, 0.1), (0.1, 0.2, 0.7), (0.1, 0.2, 0.7), (0.1, 0.2, 0.7))  # probabilities of four pictures
FINDINGS = ("tumor", "necrosis", "ink")


def finding(number: int, label, probabilities, **more) -> PredictionRecord:
    """A record of several labels."""
    options = {"classes": FINDINGS, "task": "multilabel", "thresholds": THRESHOLDS, **more}
    return record(f"{number}.png", label, probabilities, **options)


@pytest.fixture(scope="module")
def findings() -> list[PredictionRecord]:
    """Thirty pictures of ten groups, with random probabilities that the labels follow."""
    rng = np.random.default_rng(3)
    probabilities = rng.random((30, 3)).round(3)
    truth = rng.random((30, 3)) < probabilities
    rows = zip(probabilities.tolist(), truth, strict=True)
    return [finding(i, tuple(np.flatnonzero(t).tolist()), p, group=f"P{i // 3}") for i, (p, t) in enumerate(rows)]


def test_scores_of_several_labels_are_those_of_scikit_learn(findings):
    cases = make_cases(findings)
    found = compute_scores(cases.labels, cases.probabilities, thresholds=cases.thresholds)
    truth, probabilities = cases.labels, cases.probabilities
    predicted = probabilities >= np.array(THRESHOLDS)
    expected = {
        "accuracy": accuracy_score(truth, predicted),
        "f1_macro": f1_score(truth, predicted, average="macro"),
        "auc_macro": roc_auc_score(truth, probabilities, average="macro"),
        "auc_micro": roc_auc_score(truth, probabilities, average="micro"),
        "ap_macro": average_precision_score(truth, probabilities, average="macro"),
        "sensitivity": recall_score(truth, predicted, average=None),
        "specificity": recall_score(~truth, ~predicted, average=None),
        "precision": precision_score(truth, predicted, average=None),
        "f1": f1_score(truth, predicted, average=None),
    }
    expected["balanced_accuracy"] = (expected["sensitivity"] + expected["specificity"]).mean() / 2
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    assert "ece" not in found


def test_grades_have_kappa_and_mean_absolute_error():
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(4, size=50), rng.dirichlet(np.ones(4), 50)
    found = compute_scores(labels, probabilities, ordered=True)
    predicted = probabilities.argmax(1)
    assert found["mae"] == pytest.approx(mean_absolute_error(labels, predicted))
    assert found["kappa"] == pytest.approx(cohen_kappa_score(labels, predicted, weights="quadratic"))
    assert "mae" not in compute_scores(labels, probabilities)


def test_a_page_of_several_labels(findings, tmp_path):
    path = write(tmp_path / "predictions.jsonl", findings)
    assert main(["report", path, "--output", str(tmp_path / "out"), "--resamples", "20"]) == 0
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    (run,) = content["runs"]
    assert run["scored"]["labels"] == [sum(i in r.label for r in findings) for i in range(3)]
    wrong = [r for r in findings if r.is_wrong]
    assert run["scored"]["right"] == 30 - len(wrong)
    probability_of_truth = [
        np.prod([p if i in r.label else 1 - p for i, p in enumerate(r.probabilities)]) for r in wrong
    ]
    worst = wrong[int(np.argmin(probability_of_truth))]
    assert run["errors"][0]["file"] == worst.file
    assert run["errors"][0]["true_probability"] == pytest.approx(min(probability_of_truth))
    text = text_of(tmp_path / "out" / "report.html")
    assert "present or absent by itself" in text
    assert "(tumor 0.5, necrosis 0.3, ink 0.6)" in text
    assert "Which classes are mistaken" not in text
    assert "Calibration" not in text


def test_several_labels_are_no_grades(findings, tmp_path, capsys):
    path = write(tmp_path / "predictions.jsonl", findings)
    assert main(["report", path, "--output", str(tmp_path / "out"), "--ordered"]) == 1
    assert "they are no grades. Leave --ordered out." in capsys.readouterr().err


def test_runs_of_different_tasks_are_not_compared(findings, tmp_path, capsys):
    one = write(tmp_path / "one.jsonl", findings)
    other = write(tmp_path / "other.jsonl", [record("0.png", 0, (0.5, 0.25, 0.25), classes=FINDINGS)])
    assert main(["report", one, other, "--output", str(tmp_path / "out")]) == 1
    assert "they cannot be compared" in capsys.readouterr().err


def test_a_class_that_is_in_no_case_is_told(tmp_path):
    records = [finding(i, (i % 2,), (0.6, 0.4, 0.1), group=str(i)) for i in range(4)]
    path = write(tmp_path / "predictions.jsonl", records)
    assert main(["report", path, "--output", str(tmp_path / "out"), "--resamples", "0"]) == 0
    assert "ink is in no case" in text_of(tmp_path / "out" / "report.html")


# --------------------------------------------------------------------------------------------- records, tables, QuPath


def test_a_record_of_one_class_is_written_as_ever():
    line = json.loads(record("a.png", 1, (0.1, 0.2, 0.3, 0.4)).to_json())
    assert not {"task", "thresholds"} & set(line)
    assert json.loads(record("a.png", 1, (0.1, 0.2, 0.3, 0.4), task="ordinal").to_json())["task"] == "ordinal"


def test_a_record_of_several_labels_is_read_again():
    made = finding(0, (0, 2), (0.9, 0.2, 0.7), intervals=((0.8, 1.0), (0.1, 0.25), (0.6, 0.8)), certified=True)
    again = PredictionRecord.from_json(made.to_json())
    assert again == made
    assert (again.prediction, again.main_class, again.is_wrong) == ((0, 2), 0, False)
    by_hand = -sum(p * np.log(p) + (1 - p) * np.log(1 - p) for p in (0.9, 0.2, 0.7))
    assert again.predictive_entropy == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [2, 0]}, "not a rising list of indices of 3 classes"),
        ({"label": 1}, "not a rising list"),
        ({"label": [3]}, "not a rising list"),
        ({"thresholds": None, "label": None}, "thresholds are None, but the task is 'multilabel'"),
        ({"thresholds": [0.5]}, "not one for all or one for each of 3 classes"),
        ({"probabilities": [0.5, 0.5, 1.5]}, "probabilities are not 3 probabilities"),
        ({"task": "grades"}, "task 'grades' is none of multiclass, ordinal, multilabel"),
    ],
)
def test_a_broken_record_is_refused(change, message):
    values = {**json.loads(finding(0, (0, 2), (0.9, 0.2, 0.7)).to_json()), **change}
    with pytest.raises(ValueError, match=message):
        PredictionRecord.from_json(json.dumps(values))


def test_tables_of_several_labels():
    records = [finding(0, (0, 1), (0.9, 0.4, 0.5), group="P"), finding(1, (), (0.1, 0.1, 0.1), group="P")]
    lines = prediction_table(records).splitlines()
    assert ",tumor + necrosis,tumor + necrosis,0.9,0.4,0.5," in lines[1]
    assert ",none,none,0.1,0.1,0.1," in lines[2]
    labels = {"0.png": (0, 1), "1.png": ()}
    assert (
        slide_table(records, [], labels).splitlines()[1].startswith("0.png,1,0,ok,tumor + necrosis,tumor + necrosis,")
    )
    assert patient_table(records, [], {"P": labels}).splitlines()[1].startswith("P,2,2,ok,,tumor,0.5,0.25,0.3,")


def test_qupath_gets_all_classes_that_are_predicted():
    regions = [
        feature_collection([finding(0, (1,), p)])["features"][0]["properties"] for p in ((0.9, 0.4, 0), (0, 0, 0))
    ]
    assert [one["classification"]["name"] for one in regions] == ["tumor + necrosis", "none"]
    assert regions[0]["metadata"]["true class"] == "necrosis"
    assert regions[0]["name"] == "predicted tumor + necrosis (0.36)"
    assert regions[1]["classification"]["color"] == [128, 128, 128]


# ------------------------------------------------------------------------------------------ viewer, titles, experiments


def test_the_viewer_names_all_classes_and_filters_by_labels():
    page = describe_page({"0.png": [finding(0, (1,), (0.9, 0.4, 0.0)), finding(1, (), (0.1, 0.1, 0.1))]}, title="run")
    (slide,) = page["slides"]
    answers = [(region["predicted"], region["true"], round(region["probability"], 3)) for region in slide["regions"]]
    assert answers == [("tumor + necrosis", "necrosis", 0.36), ("none", "none", 0.729)]
    assert page["classes"] == ["tumor + necrosis", "necrosis", "none"]


def test_titles_name_all_classes():
    evidence = finding(0, (1,), (0.9, 0.4, 0.0)).evidence
    assert describe_answer(evidence, FINDINGS) == "wrong: true necrosis, predicted tumor + necrosis (0.36)"
    assert describe_answer(replace(evidence, label=(0, 1)), FINDINGS).startswith("right: true tumor + necrosis")
    with pytest.raises(ValueError, match="multi-label needs probabilities"):
        _ = replace(evidence, scores=np.array([3.0, -2.0, 0.0])).prediction


def test_regions_that_tell_most_are_wrong_ones_with_an_improbable_truth():
    records = [finding(i, label, (0.9, 0.4, 0.1)) for i, label in enumerate([(0, 1), (2,), (0,)])]
    chosen = choose_records(records, 2)
    assert (chosen[0][0].file, chosen[0][1]) == ("1.png", "wrong")


def test_an_experiment_of_grades_has_kappa_and_error(tmp_path):
    graded = [
        record(f"{i}.png", i % 3, p, classes=FINDINGS, task="ordinal", group=str(i)) for i, p in enumerate(GRADES)
    ]
    files = {("multi", 0, 0): RunFiles(predictions=Path(write(tmp_path / "a.jsonl", graded)))}
    lines = write_experiment(files, tmp_path / "out", Settings(resamples=10))
    assert {"kappa", "MAE"} <= set(lines[0].split())
    content = json.loads((tmp_path / "out" / "variants.json").read_text())
    expected = mean_absolute_error([0, 1, 2, 0], np.argmax(GRADES, axis=1))
    assert content["variants"]["multi"]["scores"]["mae"]["value"] == pytest.approx(expected)


def test_an_experiment_of_several_labels(findings, tmp_path):
    files = {("multi", 0, 0): RunFiles(predictions=Path(write(tmp_path / "a.jsonl", findings)))}
    lines = write_experiment(files, tmp_path / "out", Settings(resamples=10))
    assert "kappa" not in lines[0].split()
    right = sum(not record.is_wrong for record in findings)
    assert (tmp_path / "out" / "runs.csv").read_text().splitlines()[1] == f"multi,0,0,30,10,30,{right}"
