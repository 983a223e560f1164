# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a prediction does about files that fail, and about slides without tissue."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data import DataLoader
from prediction_cases import NAMES, VIEW, predict, spoil, table

from monai_jsma._io import Fault
from monai_jsma.engines import JSMAEvaluator
from monai_jsma.handlers.prediction_saver import PredictionSaver
from monai_jsma.inferers import JSMAInferer
from monai_jsma.networks import AllPatches
from monai_jsma.predictions.records import read_records


@pytest.mark.parametrize("workers", [0, 1])
def test_what_fails_is_listed_and_all_others_are_predicted(tmp_path, items, net, workers):
    sound = spoil(items)
    expected = predict(tmp_path / "sound", sound, net)
    with pytest.raises(RuntimeError, match=r"^3 of 10 regions failed: see .*failed\.csv") as raised:
        predict(tmp_path / "out", items, net, workers=workers)
    assert "text.svs" in str(raised.value)
    records = read_records(tmp_path / "out" / "predictions.jsonl")
    alone = read_records(tmp_path / "sound" / "predictions.jsonl")
    assert [r.key for r in records] == [r.key for r in alone]
    for one, other in zip(records, alone, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-7)
        assert one.attention == pytest.approx(other.attention, abs=1e-7)
    failed = table(tmp_path / "out" / "failed.csv")
    assert [(Path(f["file"]).name, f["row"], f["col"]) for f in failed] == [
        ("text.svs", "0", "0"), ("thumbnail.tif", "0", "0"), ("patch.tif", "0", "0"),
    ]  # fmt: skip
    reasons = [f["reason"] for f in failed]
    assert "text.svs: " in reasons[0]
    assert "thumbnail.tif: tile 0 of level 1 (from row 0, column 0) is damaged" in reasons[1]
    assert "patch.tif: tile 0 of level 0 (from row 0, column 0) is damaged" in reasons[2]
    slides = {Path(s["file"]).name: s for s in table(tmp_path / "out" / "slides.csv")}
    assert [(s["status"], s["regions"], s["failed"]) for s in slides.values()] == [
        ("failed", "0", "1"), ("ok", "2", "0"), ("failed", "0", "1"), ("ok", "2", "0"), ("failed", "1", "1"),
        ("ok", "2", "0"),
    ]  # fmt: skip
    shares = {f"attention_{what}_{n}" for what in ("share", "enrichment") for n in NAMES}
    assert set(expected) == {"accuracy", "patches_read", *shares}


def test_in_a_validation_a_failure_ends_the_run(items, net):
    spoil(items)
    data = [{key: view[key] for key in ("image", "pyramid")} for view in map(VIEW, (items[1], items[5]))]
    engine = JSMAEvaluator(torch.device("cpu"), DataLoader(data, batch_size=2), net, inferer=JSMAInferer(AllPatches()))
    with pytest.raises(RuntimeError, match=r"patch\.tif: tile 0 of level 0 .* is damaged"):
        engine.run()


def test_when_all_fail_the_tables_tell(tmp_path, items, net):
    spoil(items)
    bad = [items[0], items[2], items[5]]
    for chosen in (bad, bad[2:]):
        with pytest.raises(RuntimeError, match=rf"^{len(chosen)} of {len(chosen)} regions failed"):
            predict(tmp_path / "out", chosen, net)
        assert len(table(tmp_path / "out" / "failed.csv")) == len(chosen)
        assert read_records(tmp_path / "out" / "predictions.jsonl") == []


def test_no_tissue_at_all_is_no_success(tmp_path, net):
    unread = [Fault("a.svs", "tissue", "a.svs: no tissue found")]
    with pytest.raises(RuntimeError, match=r"^nothing to predict: no tissue in any slide; see .*slides\.csv"):
        predict(tmp_path / "out", [], net, unread=unread)
    assert [(s["file"], s["regions"], s["status"]) for s in table(tmp_path / "out" / "slides.csv")] == [
        ("a.svs", "0", "no tissue")
    ]
    with pytest.raises(RuntimeError, match=r"^1 of 1 regions failed.*b\.svs: no slide"):
        predict(tmp_path / "out", [], net, unread=[*unread, Fault("b.svs", "slide", "b.svs: no slide")])
    assert [s["status"] for s in table(tmp_path / "out" / "slides.csv")] == ["no tissue", "failed"]


def test_slides_without_tissue_beside_others(tmp_path, items, net):
    predict(tmp_path / "out", items, net, unread=[Fault("a.svs", "tissue", "a.svs: no tissue found")])
    statuses = [s["status"] for s in table(tmp_path / "out" / "slides.csv")]
    assert statuses == ["ok", "ok", "ok", "no tissue"]


def test_wrong_items(tmp_path, items, net):
    with pytest.raises(ValueError, match=r"0\.tif: listed twice"):
        predict(tmp_path / "out", [*items, items[0]], net)
    with pytest.raises(ValueError, match=r"0\.tif: 'location' must be two whole numbers of level-0 pixels, but is 5"):
        predict(tmp_path / "out", [{**items[0], "location": 5}], net)
    with pytest.raises(ValueError, match=r"each class needs a name of its own, but they are \['a', 'a'\]"):
        PredictionSaver(tmp_path, items, model="model.pt", class_names=["a", "a"])
    items[1]["label"] = 3
    with pytest.raises(ValueError, match=r"0\.tif: label 3 is not one of the 3 classes"):
        predict(tmp_path / "out", items, net)
