# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Evidence: from an engine's batch, from a record, and back to the same record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from attention_cases import evidence_of, grey_pyramid, item, make_pyramid, output
from ignite.engine import Engine
from places import ROOT

from monai_jsma.predictions import collect_evidence, magnification_shares, make_record, prior_shares, read_records

SAMPLES = sorted((ROOT / "tests" / "samples" / "version_0_1").glob("*/predictions.jsonl"))
CLASSES = ("benign", "tumour")


def test_there_are_samples():
    assert len(SAMPLES) == 7


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.parent.name)
def test_records_of_version_0_1_are_written_again_byte_for_byte(path: Path) -> None:
    """As they were read, and by way of their evidence, which holds all that a prediction is."""
    records = read_records(path)
    assert "".join(f"{record.to_json()}\n" for record in records) == path.read_text(encoding="utf-8")
    for record in records:
        again = make_record(record.evidence, record.classes, label=record.label, group=record.group, run=record.run)
        assert again == record
        assert again.to_json() == record.to_json()


@pytest.mark.parametrize("orientation", range(8))
def test_stored_cells_are_those_of_the_pyramid(orientation: int) -> None:
    upright = make_pyramid(np.full((160, 200, 3), 100, np.uint8), origin=(10, 30), size=(60, 100))
    pyramid = upright.oriented(orientation)
    evidence = evidence_of(pyramid, output(pyramid, {0: 1.0}, [0], [1.0]))
    expected = [pyramid.stored_index(cell) for cell in range(pyramid.geometry.num_cells)]
    assert evidence.stored_cells.tolist() == expected
    assert evidence.stored_geometry == pyramid.stored_geometry == upright.geometry
    assert evidence.frame == ((10, 30) if orientation == 0 else None)


def test_evidence_of_an_engine_and_of_its_record_agree():
    pyramid = grey_pyramid((60, 100))
    made = output(pyramid, {1: 0.25, 4: 0.75}, [4, 1, 4, 0], [0.5, 0.25, 0.25, 0.0])
    made |= {
        "pred": torch.tensor([0.25, 0.75]),
        "certified": torch.tensor(True),
        "intervals": torch.tensor([[0.125, 0.375], [0.625, 0.875]]),
        "draw_probabilities": torch.tensor([[0.5, 0.5], [0.0, 1.0]]),
    }
    fresh = evidence_of(pyramid, made, image=item(pyramid)["image"], label=torch.tensor(1))
    saved = make_record(fresh, CLASSES).evidence
    for name in ("file", "location", "geometry", "mpp_source", "label", "certified", "prediction", "patches_read"):
        assert getattr(saved, name) == getattr(fresh, name), name
    for name in ("attention", "scores", "intervals", "draw_probabilities"):
        np.testing.assert_array_equal(getattr(saved, name), getattr(fresh, name))
    assert saved.cells.tolist() == [4, 1]  # drawn twice, read once
    assert saved.weights.tolist() == [0.75, 0.25]
    assert fresh.thumbnail is not None
    np.testing.assert_array_equal(fresh.read_patches([4, 1]), pyramid.read([4, 1]))
    assert saved.thumbnail is None
    with pytest.raises(ValueError, match=r"slides/a\.png: evidence of a record has no pyramid to read patches from"):
        saved.read_patches([4])


def test_evidence_of_a_record_gets_the_answer_of_its_item():
    pyramid = grey_pyramid((60, 100))
    fresh = evidence_of(pyramid, {**output(pyramid, {0: 1.0}, [0], [1.0]), "pred": torch.tensor([0.25, 0.75])})
    engine = Engine(lambda engine, batch: None)
    engine.state.batch = [{"evidence": make_record(fresh, CLASSES).evidence, "cell": [2, 3], "level": "200X"}]
    engine.state.output = [{}]
    (evidence,) = collect_evidence(engine)
    assert evidence.true_cells.tolist() == [2, 3]
    assert evidence.true_magnification == "200X"


def test_prediction_is_the_index_of_the_best_score_or_the_index_itself():
    pyramid = grey_pyramid((60, 100))
    made = output(pyramid, {0: 1.0}, [0], [1.0])
    assert evidence_of(pyramid, made).prediction is None
    for pred, expected in ((torch.tensor([-3.0, 5.0, 4.0]), 1), (torch.tensor(2), 2), (torch.tensor([2]), 2)):
        assert evidence_of(pyramid, {**made, "pred": pred}).prediction == expected
    one_hot = evidence_of(pyramid, made, label=torch.tensor([0, 0, 1]))
    assert one_hot.label == 2


def test_shares_are_of_the_attention_and_of_the_cells():
    geometry = grey_pyramid((60, 100)).geometry  # 1 x 2 and 2 x 3 cells
    attention = [0.25, 0.25, 0.5, 0, 0, 0, 0, 0]
    assert magnification_shares(geometry, attention) == {"100X": 0.5, "200X": 0.5}
    assert magnification_shares(geometry, np.array(attention)) == {"100X": 0.5, "200X": 0.5}
    assert prior_shares(geometry) == {"100X": 2 / 8, "200X": 6 / 8}
