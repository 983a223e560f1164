# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The ``report`` command: what it tells of runs, by value, and what it refuses in one line."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from report_cases import CLASSES, answer, record, ten, text_of, write

from monai_jsma.__main__ import main
from monai_jsma.predictions.tables import patient_table
from monai_jsma.report import Run, Settings, evaluate, read_runs
from monai_jsma.report.figures import draw_attention_shares


def read(records: list, name: str = "run") -> Run:
    return Run(name, (__file__,), tuple(records))


def test_accuracy_stays_what_it_is(report, tmp_path, capsys):
    (run,) = report(write(tmp_path / "p.jsonl", ten()))["runs"]
    scored = run["scored"]
    assert (run["name"], scored["units"], scored["groups"], scored["right"]) == ("p", 10, 5, 6)
    assert scored["scores"]["accuracy"]["value"] == 0.6
    assert scored["labels"] == [3, 3, 2, 2]
    assert (scored["most_frequent_class"], scored["most_frequent"]) == ("a", 0.3)
    assert "p: 10 regions of 5 groups, accuracy 0.600 [" in capsys.readouterr().out
    shown = text_of(tmp_path / "out" / "report.html")
    assert "correct for 6 of 10 regions of 5 groups (patients): 60.0 % [" in shown
    assert "would be correct for 30.0 %" in shown
    assert "There are only 5 groups" in shown


def test_attention_is_shared_out(report, tmp_path):
    records = [
        answer(0, 0, 0, attention=(0.75, 0, 0.25, 0, 0, 0, 0, 0)),
        answer(0, 1, 1, attention=(0.25, 0, 0.75, 0, 0, 0, 0, 0)),
        answer(1, 1, 2, attention=(0, 0, 1, 0, 0, 0, 0, 0)),
    ]
    found = report(write(tmp_path / "p.jsonl", records))["runs"][0]["attention"]
    assert (found["magnifications"], found["by"], found["counts"]) == (["100X", "200X"], "label", [2, 1, 0, 0])
    value = {name: np.vectorize(lambda e: e["value"], otypes=[float])(found[name]) for name in found if "share" in name}
    assert value["share"] == pytest.approx([1 / 3, 2 / 3])
    assert value["class_share"][:2] == pytest.approx(np.array([[0.5, 0.5], [0, 1]]))
    assert [e["value"] for e in found["prior"]] == [0.25, 0.75]
    assert [e["value"] for e in found["enrichment"]] == pytest.approx([4 / 3, 8 / 9])
    assert found["class_enrichment"][0][0]["value"] == pytest.approx(2)
    assert found["class_share"][3] == [{"value": None, "low": None, "high": None, "resamples": 0}] * 2


def test_regions_of_a_file_count_as_one():
    regions = [
        record("s.tif", 0, (0.3, 0.5, 0.2, 0), location=(60, 0), group="P"),
        record("s.tif", 0, (0.9, 0.1, 0, 0), location=(0, 0), group="P"),
        record("t.tif", 1, (0.5, 0.4, 0.1, 0), group="P"),
        record("t.tif", 1, (0.7, 0.2, 0.1, 0), location=(0, 100), group="P"),
    ]
    run = read([*regions])
    by = {unit: evaluate([run], Settings(by=unit, resamples=0))["runs"][0] for unit in ("region", "file")}
    assert by["region"]["scored"]["scores"]["accuracy"]["value"] == pytest.approx(1 / 4)
    assert by["file"]["scored"]["scores"]["accuracy"]["value"] == pytest.approx(1 / 2)
    (error,) = by["file"]["errors"]
    assert error["probabilities"] == pytest.approx([0.6, 0.3, 0.1, 0])
    assert (error["location"], error["regions"]) == ([0, 100], 2)  # the worst of its regions is shown
    assert [e["location"] for e in by["region"]["errors"]] == [[0, 100], [60, 0], [0, 0]]  # least probability first
    with pytest.raises(ValueError, match="P: its regions have the labels a, b; score them --by region"):
        evaluate([run], Settings(by="group", resamples=0))


def test_differences_are_paired():
    one = [answer(i % 4, i % 4, i) for i in range(12)]
    two = [answer(i % 4, (i + (i < 6)) % 4, i) for i in range(12)]  # the first six are wrong
    for others in (two, two[::-1]):  # whatever the order of the lines
        found = evaluate([read(one, "one"), read(others, "two")], Settings(resamples=500))
        (difference,) = found["differences"]
        accuracy = difference["scores"]["accuracy"]
        assert (difference["run"], difference["minus"], difference["units"], difference["groups"]) == (
            "two", "one", 12, 12,
        )  # fmt: skip
        assert accuracy["value"] == -0.5
        of_two = found["runs"][1]["scored"]["scores"][
            "accuracy"
        ]  # run one is always right: the difference varies as two
        assert (accuracy["low"], accuracy["high"]) == pytest.approx((of_two["low"] - 1, of_two["high"] - 1))
    same = evaluate([read(two, "one"), read(two, "two")], Settings(resamples=50))["differences"][0]["scores"]
    assert all((e["value"], e["low"], e["high"]) == (0, 0, 0) for e in same.values())


def test_differences_are_over_what_both_runs_have():
    one, two = [answer(0, 0, i) for i in range(4)], [answer(0, i % 2, i) for i in range(2, 8)]
    (difference,) = evaluate([read(one, "one"), read(two, "two")], Settings(resamples=10))["differences"]
    assert (difference["units"], difference["scores"]["accuracy"]["value"]) == (2, -0.5)
    (nothing,) = evaluate([read(one, "one"), read([answer(0, 0, 9)], "two")], Settings(resamples=10))["differences"]
    assert (nothing["units"], nothing["scores"]) == (0, {})
    with pytest.raises(ValueError, match=r"its label is 'a' in run 'one', but 'b' in run 'two'"):
        evaluate([read(one, "one"), read([answer(1, 1, 0)], "two")])


def test_runs_side_by_side(report, tmp_path):
    paths = [write(tmp_path / name / "predictions.jsonl", ten()[: 8 + i]) for i, name in enumerate(("multi", "50X"))]
    found = report(paths[0], paths[1], f"third={write(tmp_path / 'x.jsonl', ten())}")
    assert [run["name"] for run in found["runs"]] == ["multi", "50X", "third"]
    assert [(d["run"], d["units"]) for d in found["differences"]] == [("50X", 8), ("third", 8)]
    shown = text_of(tmp_path / "out" / "report.html")
    assert "50X minus multi, over the 8 regions of 4 groups that both runs have" in shown
    comparisons = ("comparison", "comparison_roc", "comparison_precision_recall", "comparison_risk_coverage")
    for stem in (*comparisons, "multi_roc", "50X_risk_coverage"):
        assert (tmp_path / "out" / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "out" / f"{stem}.svg").read_text()


def test_files_of_one_name_are_one_run(tmp_path):
    folds = [f"cv={write(tmp_path / f'{i}.jsonl', ten()[5 * i : 5 * i + 5])}" for i in range(2)]
    (run,) = read_runs(folds)
    assert (run.name, run.records) == ("cv", tuple(ten()))


def test_patches_that_were_read_are_counted(report, tmp_path):
    patch = answer(0, 0, 0).patches
    records = [answer(0, 0, 0), answer(0, 0, 1, patches=2 * patch)]
    found = report(write(tmp_path / "p.jsonl", records))["runs"][0]["patches"]
    assert found == {"read": 1.5, "cells": 8, "certified": None, "asked": 0}
    assert "certain that" not in text_of(tmp_path / "out" / "report.html")
    records = [answer(0, 0, i, certified=i < 2) for i in range(3)]
    found = report(write(tmp_path / "p.jsonl", records))["runs"][0]["patches"]
    assert found == {"read": 1, "cells": 8, "certified": 2, "asked": 3}
    shown = text_of(tmp_path / "out" / "report.html")
    assert "the network read 1.0 of 8.0 patches on average. In 2 of 3 regions it is certain" in shown


def test_regions_that_are_certified_at_a_confidence_are_counted(report, tmp_path):
    records = [answer(0, 0, i, certified=i < 2, confidence=(0.992, 1.0, 0.25)[i]) for i in range(3)]
    found = report(write(tmp_path / "p.jsonl", records))["runs"][0]["patches"]
    assert found == {"read": 1, "cells": 8, "certified": 2, "asked": 3, "confidence": 0.992}
    shown = text_of(tmp_path / "out" / "report.html")
    assert "In 2 of 3 regions the predicted class is that of all patches, at a confidence of at least 99.20 %" in shown
    assert "it is certain that" not in shown
    found = report(write(tmp_path / "q.jsonl", records[2:]))["runs"][0]["patches"]
    assert (found["certified"], found["asked"], found["confidence"]) == (0, 1, None)
    shown = text_of(tmp_path / "out" / "report.html")
    assert "In 0 of 1 regions the predicted class is that of all patches. This does not say" in shown


def test_without_labels_only_the_attention_is_shown(report, tmp_path):
    (run,) = report(write(tmp_path / "p.jsonl", [answer(None, 1, i) for i in range(3)]))["runs"]
    assert (run["scored"], run["errors"], run["attention"]["by"]) == (None, [], "prediction")
    assert run["attention"]["counts"] == [0, 3, 0, 0]
    shown = text_of(tmp_path / "out" / "report.html")
    assert "No region has a label, so nothing can be scored" in shown
    assert "by predicted class" in shown
    assert "Accuracy" not in shown


def test_records_without_label_are_left_out_and_counted(report, tmp_path):
    (run,) = report(write(tmp_path / "p.jsonl", [*ten(), answer(None, 1, 99, group="P9")]))["runs"]
    assert (run["regions"], run["regions_without_label"], run["scored"]["units"]) == (11, 1, 10)
    assert run["scored"]["scores"]["accuracy"]["value"] == 0.6
    assert "1 of 11 regions have no label and are left out" in text_of(tmp_path / "out" / "report.html")


def test_undefined_is_said(report, tmp_path):
    (run,) = report(write(tmp_path / "p.jsonl", [answer(0, i % 2, i) for i in range(4)]))["runs"]
    assert run["scored"]["scores"]["auc_macro"]["value"] is None
    shown = text_of(tmp_path / "out" / "report.html")
    assert "Every label is a: how well the classes are separated cannot be measured here." in shown
    assert "AUC, macro undefined" in shown
    assert "nan" not in shown.lower().replace("nance", "")


def test_what_has_no_width_is_no_certainty(report, tmp_path):
    report(write(tmp_path / "p.jsonl", [answer(i % 4, i % 4, i) for i in range(30)]))
    shown = text_of(tmp_path / "out" / "report.html")
    assert "Every prediction is correct" in shown
    assert "after 30 groups without exception, up to 10% of all groups may be different" in shown
    assert "All predictions are correct." in shown


def test_kappa_is_for_grades_alone(report, tmp_path):
    assert "kappa" not in evaluate([read(ten())], Settings(resamples=2))["runs"][0]["scored"]["scores"]
    path = write(tmp_path / "p.jsonl", ten())
    scored = report(path, "--ordered")["runs"][0]["scored"]["scores"]
    # hand: distances 1, 1, 1 and 9 of the errors; by chance sum(d2 * true * called) / 10
    true, called = (3, 3, 2, 2), (3, 3, 2, 2)
    by_chance = sum((i - j) ** 2 * true[i] * called[j] for i in range(4) for j in range(4)) / 10
    assert scored["kappa"]["value"] == pytest.approx(1 - 12 / by_chance)
    assert "Quadratic kappa" in text_of(tmp_path / "out" / "report.html")


def test_worst_errors_are_shown_with_their_pictures(report, tmp_path):
    Image.fromarray(np.full((60, 100, 3), 200, np.uint8)).save(tmp_path / "9.png")
    (run,) = report(write(tmp_path / "p.jsonl", ten()), "--errors=2")["runs"]
    first, second = run["errors"]
    assert (first["file"], first["label"], first["prediction"], first["picture"]) == ("9.png", 3, 0, "error_1")
    with Image.open(tmp_path / "out" / "error_1.png") as picture:
        assert min(picture.size) > 100
    assert (second["file"], second["picture"]) == ("7.png", None)
    assert "there is no such file" in second["reason"]
    shown = text_of(tmp_path / "out" / "report.html")
    assert "True class d : probability 3.0 %. Predicted class a : probability 91.0 %." in shown
    assert "No image:" in shown


def test_equal_predictions_give_equal_bytes(report, tmp_path):
    path = write(tmp_path / "p.jsonl", ten())
    made = []
    for _ in range(2):
        report(path)
        made.append({file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()})
    assert made[0] == made[1]
    assert {"report.html", "report.json", "roc.png", "roc.svg", "calibration.svg", "attention.png"} <= set(made[0])


def test_names_are_text_and_nothing_else(report, tmp_path):
    classes = ("<script>alert(1)</script>", "$\\frac{", "_hidden", "a" * 60)
    records = [answer(i % 4, (i + i // 4) % 4, i, classes=classes, group="<b>") for i in range(8)]
    report(f"<i>run</i>={write(tmp_path / 'p.jsonl', records)}")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>" not in page
    assert "<b><" not in page.replace("<b></b>", "")
    assert "<i>" not in page
    assert "_hidden" in page


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, r"missing\.jsonl: there are no such predictions"),
        ({"empty.jsonl": ""}, r"empty\.jsonl: holds no predictions"),
        ({"p.jsonl": "x\n"}, r"p\.jsonl, line 1: not a prediction record"),
        ({"p.jsonl": [*ten(), ten()[0]]}, r"p\.jsonl, line 11: 0\.png at \(0, 0\) was predicted before"),
        ({"p.jsonl": ten(), "q.jsonl": [record("z", 0, (1, 0), classes=("x", "y"))]}, "'q' has the classes x, y, but"),
        ({"p.jsonl": [*ten(), record("z", 0, (1, 0), classes=("x", "y"))]}, "z has the classes x, y, but 0.png has a"),
        ({"1/p.jsonl": ten(), "2/p.jsonl": ten()}, "another file has the name 'p' too; give names as NAME=FILE"),
    ],
)  # fmt: skip
def test_errors_are_one_line(files, reason, tmp_path, capsys):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        _ = (tmp_path / name).write_text(content) if isinstance(content, str) else write(tmp_path / name, content)
    paths = [str(tmp_path / name) for name in files or ["missing.jsonl"]]
    assert main(["report", *paths, "--output", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(reason, line), line
    assert not (tmp_path / "out").exists()


def test_names_of_runs(tmp_path):
    path = write(tmp_path / "run=1" / "predictions.jsonl", ten())
    assert [run.name for run in read_runs([path, f"other={path}"])] == ["run=1", "other"]
    assert read_runs([path])[0].classes == CLASSES
    with pytest.raises(ValueError, match="the name '' is empty or taken"):
        read_runs([f"={path}"])
    plain = write(tmp_path / "run" / "predictions.jsonl", ten())
    with pytest.raises(ValueError, match="the name 'run' is empty or taken"):
        read_runs([plain, f"run={path}"])


def test_a_reader_is_told_what_to_doubt():
    def notes(records: list) -> str:
        return " ".join(evaluate([read(records)], Settings(resamples=0))["runs"][0]["notes"])

    many = [answer(i % 4, (i + i // 20) % 4, i) for i in range(40)]
    assert notes(many) == ""
    assert notes([*many, record("t", 0, (0.5, 0.5, 0, 0))]) == (
        "1 of 41 predictions have several equally probable classes: the first of them is taken."
    )
    assert notes([r for r in many if r.label != 2]).startswith(
        "No label is c: scores that need such a case are undefined"
    )
    some = [replace(r, draw_probabilities=(r.probabilities,)) if i else r for i, r in enumerate(many)]
    assert notes(some) == (
        "1 of 40 regions were predicted without repeated draws, so there is no order by mutual information."
    )
    assert "All cases are of one group: there are no intervals" in notes(
        [answer(i % 4, 0, i, group="P") for i in range(8)]
    )
    assert "Every prediction is wrong" in notes([answer(i % 4, (i + 1) % 4, i) for i in range(40)])


def test_attention_by_class_leaves_out_what_has_no_label():
    labelled, unlabelled = (answer(c, 0, i, attention=a) for i, (c, a) in enumerate(
        [(0, (1, 0, 0, 0, 0, 0, 0, 0)), (None, (0, 0, 1, 0, 0, 0, 0, 0))]
    ))  # fmt: skip
    found = evaluate([read([labelled, unlabelled])], Settings(resamples=0))["runs"][0]["attention"]
    assert [e["value"] for e in found["share"]] == [0.5, 0.5]
    assert [e["value"] for e in found["class_share"][0]] == [1, 0]
    assert found["counts"] == [1, 0, 0, 0]


def test_ten_magnifications_are_told_apart():
    """By colour, and where there are more of them than colours by hatch."""
    part = [{"value": 0.1}] * 10
    names = [f"{2**j}X" for j in range(10)]
    shares = {"magnifications": names, "share": part, "class_share": [part], "prior": part}
    (axes,) = draw_attention_shares(shares, ["a"]).axes
    bars = [(container[0].get_facecolor(), container[0].get_hatch()) for container in axes.containers]
    assert [container.get_label() for container in axes.containers] == names
    assert len(set(bars)) == 10
    assert not any(hatch for _, hatch in bars[:6])


def test_slides_and_patients_have_rows(tmp_path):
    """Compared with the means of the patients' table: each slide counts the same, however many regions it has."""
    made = [
        record("a.svs", 0, (0.8, 0.2, 0.0, 0.0), group="P", location=(0, 0)),
        record("a.svs", 1, (0.0, 1.0, 0.0, 0.0), group="P", location=(0, 100)),
        record("b.svs", 0, (0.9, 0.1, 0.0, 0.0), group="P"),
        record("c.svs", 0, (1.0, 0.0, 0.0, 0.0), group="Q"),
    ]
    path = write(tmp_path / "predictions.jsonl", made)
    assert main(["report", path, "--output", str(tmp_path / "report"), "--resamples", "0"]) == 0
    text = text_of(tmp_path / "report" / "report.html")
    assert "Slide or image Group Regions True class Predicted class Probability Entropy Patches read" in text
    assert "a.svs P 2 b 60.0 % 0.67 2 b.svs P 1 a a 90.0 % 0.33 1 c.svs Q 1 a a 100.0 % 0.00 1" in text
    assert "Group (patient) Slides Regions True class" in text
    assert "P 2 3 a 65.0 % 0.65 3 Q 1 1 a a 100.0 % 0.00 1" in text
    expected = patient_table(made, [], {"P": {"a.svs": None, "b.svs": 0}, "Q": {"c.svs": 0}})
    with open(tmp_path / "report" / "report_patients.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, other in zip(rows, csv.DictReader(expected.splitlines()), strict=True):
        assert (row["name"], row["label"], row["prediction"]) == (other["group"], other["label"], other["prediction"])
        assert float(row["probability"]) == pytest.approx(float(other[f"probability_{other['prediction']}"]))
        assert float(row["files"]) == float(other["files"])
