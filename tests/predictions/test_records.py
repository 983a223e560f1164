# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
import json
import math

import numpy as np
import pytest
import torch
from attention_cases import evidence_of, grey_pyramid, item, make_pyramid, output

from monai_jsma.predictions.records import PredictionRecord, make_record, read_records

CLASSES = ("benign", "tumour, viable")


def result(pyramid, attention, cells, weights, pred=(0.25, 0.75), **more):
    made = output(pyramid, attention, cells, weights)
    return evidence_of(pyramid, {**made, "pred": torch.tensor(pred), **more}, image=item(pyramid)["image"])


def record(**options):
    """Grids 1x2 and 2x3 of a region of 60 x 100 pixels; cells 1 and 4 were drawn, cell 4 twice."""
    pyramid = make_pyramid(np.full((160, 200, 3), 100, np.uint8), origin=(10, 30), size=(60, 100))
    return make_record(result(pyramid, {1: 0.25, 4: 0.75}, [4, 1, 4, 0], [0.5, 0.25, 0.25, 0.0]), CLASSES, **options)


def test_a_record_says_what_was_predicted_and_from_which_patches():
    made = record(label=1, group="patient 7", run={"seed": 3})
    assert (made.file, made.location, made.size, made.mpp, made.mpp_source) == (
        "slides/a.png", (10, 30), (60, 100), 0.5, "given",
    )  # fmt: skip
    assert (made.classes, made.probabilities, made.prediction, made.label) == (CLASSES, (0.25, 0.75), 1, 1)
    assert (made.group, made.run) == ("patient 7", {"seed": 3})
    assert (made.draws, made.draw_probabilities, made.spread, made.mutual_information) == (0, None, None, None)
    assert made.attention == (0, 0.25, 0, 0, 0.75, 0, 0, 0)
    assert made.shares == {"100X": 0.25, "200X": 0.75}
    assert made.prior_shares == {"100X": 0.25, "200X": 0.75}
    fine, coarse = made.patches
    assert (fine.magnification, fine.mpp, fine.row, fine.col, fine.attention, fine.weight) == (
        "200X", 0.5, 0, 2, 0.75, 0.75,
    )  # fmt: skip
    assert fine.box == (10, 30 + 60, 40, 40)
    assert (coarse.magnification, coarse.row, coarse.col, coarse.box) == ("100X", 0, 1, (10, 30 + 20, 80, 80))


def test_a_record_is_of_the_picture_as_stored():
    upright = grey_pyramid((60, 100))
    for orientation in range(8):
        turned = upright.oriented(orientation)
        there = {turned.stored_index(cell): cell for cell in range(turned.geometry.num_cells)}
        drawn = {there[1]: 0.25, there[4]: 0.75}
        made = make_record(result(turned, drawn, list(drawn), [0.25, 0.75]), CLASSES)
        straight = make_record(result(upright, {1: 0.25, 4: 0.75}, [1, 4], [0.25, 0.75]), CLASSES)
        assert made == straight


def test_a_line_of_json_holds_a_record():
    made = record(label=0)
    line = made.to_json()
    assert "\n" not in line
    assert PredictionRecord.from_json(line) == made
    assert json.loads(line)["shares"] == {"100X": 0.25, "200X": 0.75}


def test_float32_is_kept_and_no_more():
    third = np.float32(1) / np.float32(3)
    pyramid = grey_pyramid((60, 100))
    made = make_record(result(pyramid, {0: float(third), 1: 1 - float(third)}, [0], [1.0]), CLASSES)
    assert np.float32(made.attention[0]) == third
    assert len(repr(made.attention[0])) <= 11


def test_repeated_draws():
    """Twice sure, of different classes, and twice quite unsure."""
    pyramid, draws = grey_pyramid((60, 100)), ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.5, 0.5))
    drawn = result(pyramid, {0: 1.0}, [0], [1.0], pred=(0.5, 0.5), draw_probabilities=torch.tensor(draws))
    made = make_record(drawn, CLASSES)
    assert (made.draws, made.draw_probabilities) == (4, draws)
    assert made.spread == pytest.approx((math.sqrt(1 / 8),) * 2)
    assert made.predictive_entropy == pytest.approx(math.log(2))
    assert made.mutual_information == pytest.approx(math.log(2) / 2)
    line = made.to_json()
    assert PredictionRecord.from_json(line) == made
    written = json.loads(line)
    for name in ("draws", "predictive_entropy", "mutual_information"):
        assert written[name] == getattr(made, name)
    assert written["spread"] == list(made.spread)


@pytest.mark.parametrize("pred", [(0.2, 0.3, 0.5), (1.5, -2.0), (float("nan"), 1.0)])
def test_what_is_no_probability_of_the_classes_is_refused(pred):
    pyramid = grey_pyramid((60, 100))
    with pytest.raises(ValueError, match=r"slides/a\.png.*2 probabilities|finite"):
        make_record(result(pyramid, {0: 1.0}, [0], [1.0], pred=pred), CLASSES)


def test_files_of_records_are_read_together(tmp_path):
    lines = [record(label=0).to_json(), record(label=0).to_json().replace("a.png", "b.png")]
    for name, line in zip(("1.jsonl", "2.jsonl"), lines, strict=True):
        (tmp_path / name).write_text(line + "\n", encoding="utf-8")
    assert [r.file for r in read_records([tmp_path / "1.jsonl", tmp_path / "2.jsonl"])] == [
        "slides/a.png",
        "slides/b.png",
    ]
    with pytest.raises(ValueError, match=r"1\.jsonl, line 1: .*a\.png.*before"):
        read_records([tmp_path / "1.jsonl", tmp_path / "1.jsonl"])


@pytest.mark.parametrize("line", ["{", "[]", "{}", "half"])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "p.jsonl"
    text = record().to_json()
    path.write_text(text + "\n" + (text[: len(text) // 2] if line == "half" else line) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"p\.jsonl, line 2: not a prediction record"):
        read_records(path)


@pytest.mark.parametrize(
    "change", [{"attention": [1.0]}, {"attention": [float("nan")] * 8}, {"label": 2}, {"label": "1"}, {"patches": [{}]}]
)
def test_what_cannot_be_of_the_region_is_no_record(change):
    line = json.dumps({**json.loads(record().to_json()), **change})
    with pytest.raises(ValueError, match="not a prediction record"):
        PredictionRecord.from_json(line)


def test_certified_stopping():
    pyramid = grey_pyramid((60, 100))
    found = {"certified": True, "intervals": torch.tensor([[0.125, 0.375], [0.625, 0.875]])}
    made = make_record(result(pyramid, {0: 0.5, 3: 0.5}, [0, 3, 3], [0.5, 0.25, 0.25], **found), CLASSES)
    assert (made.certified, made.intervals, made.patches_read) == (True, ((0.125, 0.375), (0.625, 0.875)), 2)
    line = made.to_json()
    assert json.loads(line)["patches_read"] == 2
    assert PredictionRecord.from_json(line) == made


def test_stopping_at_a_confidence():
    pyramid = grey_pyramid((60, 100))
    found = {"certified": torch.tensor(False), "confidence": torch.tensor(0.625)}
    made = make_record(result(pyramid, {0: 0.5, 3: 0.5}, [0, 3], [0.5, 0.5], **found), CLASSES)
    assert (made.certified, made.confidence, made.intervals) == (False, 0.625, None)
    assert made.evidence.confidence == 0.625
    line = made.to_json()
    assert json.loads(line)["confidence"] == 0.625
    assert PredictionRecord.from_json(line) == made
    for wrong in (1.5, -0.1, "high"):
        with pytest.raises(ValueError, match="not a prediction record"):
            PredictionRecord.from_json(json.dumps({**json.loads(line), "confidence": wrong}))


def test_lines_without_a_confidence_do_not_mention_it():
    assert "confidence" not in record().to_json()


def test_lines_from_before_certified_stopping_and_draws_are_records():
    values = json.loads(record().to_json())
    for name in ("certified", "intervals", "patches_read", "draws", "draw_probabilities", "predictive_entropy"):
        del values[name]
    assert PredictionRecord.from_json(json.dumps(values)) == record()


def test_cells_of_the_patches():
    assert record().cells.tolist() == [4, 1]


def test_missing_predictions_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"p\.jsonl"):
        read_records(tmp_path / "p.jsonl")


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"probabilities": [NAN, 1.0]}, "NaN is not a number"),
        ({"probabilities": [1.5, -0.5]}, "probabilities are not 2 probabilities"),
        ({"probabilities": [0.25, 0.25]}, "probabilities are not 2 probabilities"),
        ({"probabilities": [1.0]}, "probabilities are not 2 probabilities"),
        ({"probabilities": ["a", "b"]}, "not a prediction record"),
        ({"attention": [0.5] * 8}, "attention are not 8 probabilities"),
        ({"attention": [0.125] * 7}, "attention are not 8 probabilities"),
        ({"label": 2}, "label 2"),
        ({"label": -1}, "label -1"),
        ({"label": 1.0}, r"label 1\.0"),
        ({"label": True}, "label True"),
        ({"classes": ["a", "a"]}, "classes"),
        ({"classes": "ab"}, "classes"),
        ({"group": None}, "group"),
        ({"location": [0]}, "location"),
        ({"certified": 1}, "certified 1"),
        ({"intervals": [[0.0, 1.0]]}, "intervals"),
        ({"intervals": [[0.0, 1.0], [0.5, 0.25]]}, "intervals"),
        ({"intervals": [[0.0, 1.0], [0.5, 1.25]]}, "intervals"),
        ({"intervals": [0.0, 1.0]}, "not a prediction record"),
        ({"size": [1e400, 3]}, "not a prediction record"),
        ({"draw_probabilities": []}, "probabilities are not the mean of draw_probabilities"),
        ({"draw_probabilities": [[0.25, 0.75], [0.5, 0.5]]}, "probabilities are not the mean of draw_probabilities"),
        ({"draw_probabilities": [[0.25, 0.75], [0.25, NAN]]}, "NaN is not a number"),
        ({"draw_probabilities": [[0.25, 0.75, 0.0]]}, "draw_probabilities are not 2 probabilities"),
        ({"draw_probabilities": [[1.5, -0.5], [-1.0, 2.0]]}, "draw_probabilities are not 2 probabilities"),
        ({"draw_probabilities": [0.25, 0.75]}, "not a prediction record"),
    ],
)
def test_values_that_cannot_be_are_refused(values, reason):
    sound = json.loads(record(label=0).to_json())
    with pytest.raises(ValueError, match=f"not a prediction record: .*{reason}|^{reason}"):
        PredictionRecord.from_json(json.dumps({**sound, **values}))


@pytest.mark.parametrize("place", [{"row": 2}, {"col": -1}, {"magnification": "400X"}])
def test_a_patch_that_is_in_no_grid_is_refused(place):
    sound = json.loads(record().to_json())
    sound["patches"][0].update(place)
    with pytest.raises(ValueError, match="there is no cell"):
        PredictionRecord.from_json(json.dumps(sound))
