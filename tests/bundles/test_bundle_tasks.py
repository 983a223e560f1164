# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Grades and several labels by one name: from a table of labels to training, records, tables, report and pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_runs import causes, copy_bundle, rows, run, workflow
from PIL import Image

from monai_jsma.__main__ import main
from monai_jsma.predictions.records import PredictionRecord, read_records

GRADES = ("none", "mild", "severe")
FINDINGS = ("necrosis", "ink")
SETTINGS: dict[str, Any] = {"epochs": 20, "val_interval": 10, "lr": 0.02, "batch_size": 9, "cache_rate": 1.0}
READ: dict[str, Any] = {"inference_sampler": "$monai_jsma.networks.Certified()"}


def paint(path: Path, rng: np.random.Generator, *, red: float, dark: bool) -> None:
    """A picture of 64 x 64 pixels of noise, by a degree redder, and darker or not."""
    pixels = rng.integers(150, 200, (64, 64, 3))
    pixels[..., 1:] -= round(120 * red)
    if dark:
        pixels[..., 2] //= 4
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def prepare(folder: Path, lines: list[dict[str, Any]], *options: str) -> Path:
    """A bundle with the datalist that ``prepare folder`` makes of pictures and their table."""
    bundle = copy_bundle(folder)
    data = bundle / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    table = []
    for number, line in enumerate(lines):
        name = f"{number:02d}.png"
        paint(data / name, rng, red=line.pop("red"), dark=line.pop("dark"))
        table.append({"image": name, **line})
    with open(data / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    assert main(["prepare", "folder", str(data), "--mpp", "0.5", "--folds", "3", *options]) == 0
    return bundle


@pytest.fixture(scope="module")
def ordinal(tmp_path_factory) -> Path:
    """A bundle that was trained on grades of red."""
    lines = [{"label": GRADES[i % 3], "red": i % 3 / 2, "dark": False} for i in range(27)]
    bundle = prepare(tmp_path_factory.mktemp("ordinal"), lines, "--class-order", ",".join(GRADES))
    run(bundle, "train", "demo", "ordinal", num_classes=3, **SETTINGS)
    return bundle


@pytest.fixture(scope="module")
def multilabel(tmp_path_factory) -> Path:
    """A bundle that was trained on two findings, of which any may be present."""
    lines = []
    for i in range(36):
        finding = {"necrosis": i % 2, "ink": i // 2 % 2}
        lines.append({**finding, "red": finding["necrosis"], "dark": bool(finding["ink"])})
    bundle = prepare(tmp_path_factory.mktemp("multilabel"), lines, "--label-columns", ",".join(FINDINGS))
    run(bundle, "train", "demo", "multilabel", num_classes=2, **SETTINGS)
    return bundle


def predict(bundle: Path, task: str, num_classes: int, **options: Any) -> list[PredictionRecord]:
    """The records of an evaluation of the test split, with certified labels."""
    run(bundle, "train", "demo", task, "evaluate", num_classes=num_classes, validation_list="test", **READ, **options)
    return read_records(bundle / "eval" / "predictions.jsonl")


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_grades_are_learned_and_reported(ordinal, tmp_path, capsys):
    records = predict(ordinal, "ordinal", 3)
    assert {record.task for record in records} == {"ordinal"}
    assert all(record.prediction == record.label for record in records)
    assert all(record.certified for record in records)
    metrics = rows(ordinal / "eval" / "metrics.csv")
    assert metrics["val_kappa"] == [1.0]
    assert metrics["val_accuracy"] == [1.0]
    assert metrics["val_mean_absolute_error"] == [0.0]
    assert main(["report", str(ordinal / "eval" / "predictions.jsonl"), "--output", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "report.json").read_text())
    scores = content["runs"][0]["scored"]["scores"]
    assert (scores["kappa"]["value"], scores["mae"]["value"]) == (1, 0)
    assert "Mean absolute error" in (tmp_path / "report.html").read_text()


def test_several_labels_are_learned_and_reported(multilabel, tmp_path):
    datalist = json.loads((multilabel / "data" / "datalist.json").read_text())
    assert datalist["task"] == "multilabel"
    assert {tuple(item["label"]) for item in datalist["training"]} == {(), (0,), (1,), (0, 1)}
    records = predict(multilabel, "multilabel", 2)
    assert {record.label for record in records} == {(), (0,), (1,), (0, 1)}
    assert all(record.prediction == record.label for record in records)
    assert all(record.certified for record in records)
    metrics = rows(multilabel / "eval" / "metrics.csv")
    assert metrics["val_auc_macro"] == metrics["val_accuracy"] == metrics["val_auc_roc"] == [1.0]
    named = {row["file"]: row for row in read_table(multilabel / "eval" / "predictions.csv")}
    for record in records:
        names = " + ".join(FINDINGS[index] for index in record.label) or "none"
        assert named[record.file]["label"] == named[record.file]["prediction"] == names
    assert main(["report", str(multilabel / "eval" / "predictions.jsonl"), "--output", str(tmp_path)]) == 0
    scored = json.loads((tmp_path / "report.json").read_text())["runs"][0]["scored"]
    assert scored["scores"]["accuracy"]["value"] == scored["scores"]["f1_macro"]["value"] == 1
    assert scored["confusion"] is None


def test_a_resumed_evaluation_of_several_labels_counts_what_was_predicted(multilabel):
    """Records of an earlier, killed run give the same metrics."""
    out = multilabel / "eval"
    predict(multilabel, "multilabel", 2)
    whole = rows(out / "metrics.csv")
    lines = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
    (out / "predictions.jsonl.part").write_text("".join(lines[:5]))
    (out / "predictions.jsonl").unlink()
    predict(multilabel, "multilabel", 2)
    assert (out / "predictions.jsonl").read_text() == "".join(lines)
    again = rows(out / "metrics.csv")
    assert {name: values[0] for name, values in again.items()} == pytest.approx({n: v[0] for n, v in whole.items()})


def test_thresholds_decide_and_are_told(multilabel):
    records = predict(multilabel, "multilabel", 2, thresholds=[0.000001, 0.999999])
    assert {record.thresholds for record in records} == {(0.000001, 0.999999)}
    for record in records:
        reached = zip(record.probabilities, record.thresholds, strict=True)
        assert record.prediction == tuple(i for i, (p, t) in enumerate(reached) if p >= t)


def test_whole_images_are_predicted_without_labels(multilabel):
    files = [str(multilabel / "data" / "00.png")]
    options = {"num_classes": 2, "region_size": None, "workflow_type": "infer", "max_pictures": 2, "data": files}
    run(multilabel, "inference", "demo", "multilabel", **options)
    out = multilabel / "predictions"
    (record,) = read_records(out / "predictions.jsonl")
    assert (record.task, record.label, record.prediction) == ("multilabel", None, ())
    assert len(list((out / "attention").glob("*.png"))) == 1


@pytest.mark.parametrize("task", ["survival", "regression"])
def test_what_is_not_offered_is_named(multilabel, task):
    made = workflow(multilabel, "train", "demo", task=task, num_classes=2, balanced=False)
    with pytest.raises(Exception) as error:  # noqa: PT011 - MONAI wraps it
        made.run()
    assert any(f"task '{task}' is not offered" in str(cause) for cause in causes(error.value))


def test_lists_of_labels_need_their_task(multilabel):
    made = workflow(multilabel, "train", "demo", num_classes=2, balanced=False)
    with pytest.raises(Exception) as error:  # noqa: PT011 - MONAI wraps it
        made.run()
    assert any("For images of several classes set the task 'multilabel'" in str(cause) for cause in causes(error.value))
