# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a prediction writes: its records, its tables, and what repeated draws and certified stopping add to them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from prediction_cases import CLASSES, NAMES, VIEW, WEIGHTS, by_hand, predict, spoil, stopped, table
from scipy.stats import entropy
from tiny_networks import tiny_net

from monai_jsma._io import Fault
from monai_jsma.data import PyramidBatch
from monai_jsma.inferers import JSMAInferer
from monai_jsma.networks import Certified, Confident, Draws, Sampler
from monai_jsma.predictions.records import PatchRecord, PredictionRecord, read_records


def test_the_tables(tmp_path, items, net):
    del items[1]["label"], items[4]["label"]
    items[2] = {**items[2], "group": "G"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "failed.csv").write_text("of an earlier run")
    predict(tmp_path / "out", items, net)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "patients.csv",
        "predictions.csv",
        "predictions.jsonl",
        "slides.csv",
    ]
    regions = table(tmp_path / "out" / "predictions.csv")
    expected = [by_hand(net, item) for item in items]
    names = {None: "", 0: CLASSES[0], 1: CLASSES[1], 2: CLASSES[2]}
    for row, item, (prob, shares) in zip(regions, items, expected, strict=True):
        row_, col = item["location"]
        place = (item["image"], str(row_), str(col), "32", "32", "1.0", item.get("group", item["patient"]))
        assert tuple(row.values())[:7] == place
        assert (row["label"], row["prediction"]) == (names[item.get("label")], CLASSES[prob.argmax()])
        assert [float(row[f"probability_{name}"]) for name in CLASSES] == pytest.approx(prob.tolist(), abs=1e-6)
        assert [float(row[f"share_{name}"]) for name in NAMES] == pytest.approx(shares, abs=1e-6)
    for i, row in enumerate(table(tmp_path / "out" / "slides.csv")):
        (one, share), (two, other) = expected[2 * i : 2 * i + 2]
        assert (row["file"], row["regions"], row["failed"], row["status"]) == (items[2 * i]["image"], "2", "0", "ok")
        assert row["label"] == ["", CLASSES[1], ""][i]  # only of one slide all labels are known
        assert row["prediction"] == CLASSES[(one + two).argmax()]
        assert [float(row[f"probability_{name}"]) for name in CLASSES] == pytest.approx((one + two) / 2, abs=1e-6)
        assert [float(row[f"share_{name}"]) for name in NAMES] == pytest.approx(np.add(share, other) / 2, abs=1e-6)


def test_patients_are_the_groups_of_the_datalist(tmp_path, items, net):
    """Files count equally, however many regions they have; a file of two patients gives each its own regions."""
    items[0]["group"] = items[2]["group"] = items[3]["group"] = "A"
    del items[3]["label"]
    unread = [Fault("blank.tif", "tissue", "no tissue"), Fault("other.tif", "tissue", "no tissue")]
    slides = [*items, {"image": "blank.tif", "patient": "P2"}, "other.tif"]  # the last is a bare path
    predict(tmp_path / "out", items, net, unread=unread, slides=slides)
    rows = {row["group"]: row for row in table(tmp_path / "out" / "patients.csv")}
    assert list(rows) == ["A", "P0", "P2", "other.tif"]
    assert [row["files"] for row in rows.values()] == ["2", "1", "2", "1"]
    assert [row["regions"] for row in rows.values()] == ["3", "1", "2", "0"]
    assert [row["status"] for row in rows.values()] == ["ok", "ok", "ok", "no tissue"]
    assert [row["label"] for row in rows.values()] == ["", CLASSES[0], "", ""]
    one, _, two, three = (by_hand(net, item)[0] for item in items[:4])
    mean = (one + (two + three) / 2) / 2
    assert [float(rows["A"][f"probability_{name}"]) for name in CLASSES] == pytest.approx(mean.tolist(), abs=1e-6)
    assert rows["A"]["prediction"] == CLASSES[mean.argmax()]
    assert rows["other.tif"]["prediction"] == ""


def test_the_records(tmp_path, items, net):
    predict(tmp_path / "out", items, net, settings={"magnifications": (2.0, 1.0)})
    records = read_records(tmp_path / "out" / "predictions.jsonl")
    assert [(r.file, [*r.location], [*r.size], r.label, r.group) for r in records] == [
        (i["image"], i["location"], i["size"], i["label"], i["patient"]) for i in items
    ]
    run = records[0].run
    assert (run["seed"], run["settings"], run["datalist"]) == (7, {"magnifications": [2.0, 1.0]}, None)
    assert run["model"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert set(run["versions"]) == {"monai_jsma", "monai", "torch", "python"}
    assert len(records[0].patches) == 4 + 16
    assert {p.box[:2] for p in records[1].patches if p.magnification == "100X"} == {
        (32 + 8 * i, 32 + 8 * j) for i in range(4) for j in range(4)
    }


def vars_of(patch: PatchRecord) -> tuple:
    return tuple(vars(patch).values())


def test_draws_go_into_records_and_tables(tmp_path, items, net):
    predict(tmp_path / "out", items, net, inferer=JSMAInferer(Draws(3, 4), seed=7))
    records = read_records(tmp_path / "out" / "predictions.jsonl")
    rows = table(tmp_path / "out" / "predictions.csv")
    for item, record, row in zip(items, records, rows, strict=True):
        draws = drawn_by_hand(net, item, 4, 3, seed=7)
        assert np.array(record.draw_probabilities) == pytest.approx(draws, abs=1e-6)
        assert record.probabilities == pytest.approx(draws.mean(axis=0), abs=1e-6)
        assert [float(row[f"spread_{name}"]) for name in CLASSES] == pytest.approx(draws.std(axis=0), abs=1e-6)
        parts = entropy(draws.mean(axis=0)), entropy(draws, axis=1).mean()
        assert float(row["predictive_entropy"]) == pytest.approx(parts[0], abs=1e-6)
        assert float(row["mutual_information"]) == pytest.approx(parts[0] - parts[1], abs=1e-6)
        assert row["draws"] == "4.0"
    assert max(record.mutual_information for record in records) > 1e-4
    slide = table(tmp_path / "out" / "slides.csv")[0]
    for name in ("predictive_entropy", "mutual_information"):
        assert float(slide[name]) == pytest.approx(sum(getattr(r, name) for r in records[:2]) / 2, abs=1e-8)


def drawn_by_hand(net: Any, item: dict, draws: int, k: int, seed: int) -> np.ndarray:
    """Probabilities of one region by each draw ``(draws, classes)``: one draw after the other, each asked by itself."""
    loaded = VIEW(item)
    pyramids = PyramidBatch([loaded["pyramid"]])
    image = loaded["image"].as_tensor()[None]
    inferer = JSMAInferer(Draws(k, draws), seed=seed)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(inferer(image, lambda *_, **__: torch.initial_seed(), pyramid=pyramids))
        once = Draws(k, 1)
        return np.concatenate([net(image, pyramids, sampler=once).softmax(1).numpy() for _ in range(draws)])


def test_draws_do_not_depend_on_the_folder(tmp_path, items, net):
    """The same pictures elsewhere, by paths that are written otherwise."""
    inferer = JSMAInferer(Draws(3, 2), seed=7)
    predict(tmp_path / "out", items, net, inferer=inferer)
    (tmp_path / "moved").mkdir()
    for item in items:
        item["image"] = shutil.copy(item["image"], tmp_path / "moved")
    predict(tmp_path / "again", items, net, inferer=inferer)
    one, two = (read_records(tmp_path / name / "predictions.jsonl") for name in ("out", "again"))
    assert [r.cells.tolist() for r in one] == [r.cells.tolist() for r in two]
    assert [r.probabilities for r in one] == [r.probabilities for r in two]


def test_draws_depend_on_the_picture_and_the_seed_alone(tmp_path, items, net):
    sound = spoil(items)
    predict(tmp_path / "sound", sound, net, inferer=JSMAInferer(Draws(3, 2), seed=7))
    torch.rand(1)
    with pytest.raises(RuntimeError, match=r"^[23] of 10 regions failed"):
        predict(tmp_path / "out", items, net, inferer=JSMAInferer(Draws(3, 2), seed=7))
    alone = {r.key: r for r in read_records(tmp_path / "sound" / "predictions.jsonl")}
    found = {r.key: r for r in read_records(tmp_path / "out" / "predictions.jsonl")}
    assert set(alone) <= set(found)
    for key, record in alone.items():
        assert [p[:4] for p in map(vars_of, record.patches)] == [p[:4] for p in map(vars_of, found[key].patches)]
        assert record.spread == pytest.approx(found[key].spread, abs=1e-7)
    assert any(max(r.spread) > 1e-4 for r in alone.values())
    assert len({tuple(p.box for p in r.patches) for r in alone.values() if r.location == (0, 0)}) > 1


class Stopped(NamedTuple):
    """A prediction that stopped early: its metrics, records and rows, what all patches give, the first slide's row."""

    metrics: dict[str, float]
    records: list[PredictionRecord]
    rows: list[dict[str, str]]
    expected: list[np.ndarray]
    slide: dict[str, str]


def predict_and_stop(folder: Path, items: list[dict], sampler: Sampler) -> Stopped:
    """A prediction that stops when it is certain, after 12 patches at the latest, and again after an interruption."""
    net = tiny_net(feature_norm="l2").eval()
    torch.nn.init.normal_(net.classifier.weight, std=2.0)
    options = {"inferer": JSMAInferer(sampler, seed=7)}
    metrics = predict(folder / "whole", items, net, **options)
    records = read_records(folder / "whole" / "predictions.jsonl")
    assert 0 < sum(r.certified for r in records) < len(records)
    assert {r.patches_read for r in records if not r.certified} == {12}
    rows = table(folder / "whole" / "predictions.csv")
    expected = [by_hand(net, item)[0] for item in items]
    for everything, record, row in zip(expected, records, rows, strict=True):
        assert record.prediction == everything.argmax() or not record.certified
        assert (float(row["patches_read"]), float(row["certified"])) == (record.patches_read, record.certified)
    assert metrics["patches_certified"] == pytest.approx(sum(r.certified for r in records) / len(records))
    stopped(folder / "out", (folder / "whole" / "predictions.jsonl").read_bytes(), 3)
    assert predict(folder / "out", items, net, **options) == pytest.approx(metrics)
    return Stopped(metrics, records, rows, expected, table(folder / "whole" / "slides.csv")[0])


def test_certified_stopping_goes_into_records_tables_and_metrics(tmp_path, items):
    done = predict_and_stop(tmp_path, items, Certified(12))
    for everything, record, row in zip(done.expected, done.records, done.rows, strict=True):
        low, high = np.transpose(record.intervals)
        assert (low <= everything).all() and (everything <= high).all()  # noqa: PT018
        assert [float(row[f"low_{name}"]) for name in CLASSES] == low.tolist()
        assert [float(row[f"high_{name}"]) for name in CLASSES] == high.tolist()
    assert float(done.slide["patches_read"]) == sum(r.patches_read for r in done.records[:2]) / 2
    assert float(done.slide["certified"]) == sum(r.certified for r in done.records[:2]) / 2
    patches_read = sum(r.patches_read for r in done.records) / len(done.records)
    assert done.metrics["patches_read"] == pytest.approx(patches_read)


def test_stopping_at_a_confidence_goes_into_records_tables_and_metrics(tmp_path, items):
    done = predict_and_stop(tmp_path, items, Confident(0.9, max_patches=12))
    for record, row in zip(done.records, done.rows, strict=True):
        assert record.certified == (record.confidence >= 0.9)
        assert float(row["confidence"]) == record.confidence
    assert float(done.slide["confidence"]) == pytest.approx(sum(r.confidence for r in done.records[:2]) / 2)
    confidence = sum(r.confidence for r in done.records) / len(done.records)
    assert done.metrics["patches_confidence"] == pytest.approx(confidence)
