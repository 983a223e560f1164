# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a prediction writes: its tables, what it does about files that fail, and how it goes on after a kill."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.metrics import Accuracy
from monai.data import DataLoader
from monai.handlers import from_engine
from monai.transforms import Activationsd, Compose, SelectItemsd
from scipy.stats import entropy
from slide_files import levels_of, overwrite, picture, tile_range, write_pyramid
from tiny_networks import tiny_net

from monai_jsma.data import PredictionDataset, PyramidBatch, collate_readable
from monai_jsma.data.whole_slides import Unread
from monai_jsma.engines import JSMAEvaluator, JSMAPredictor
from monai_jsma.inferers import JSMAInferer
from monai_jsma.metrics import AttentionShare, PatchesRead
from monai_jsma.predictions import PredictionSaver
from monai_jsma.records import PatchRecord, read_records
from monai_jsma.transforms import LoadPyramidd, PyramidThumbnaild

CLASSES = ["benign", "tumour, viable", "necrosis"]
VIEW = Compose([LoadPyramidd("image", (2.0, 1.0), patch_size=8), PyramidThumbnaild("image", (16, 16))])
NAMES = ("50X", "100X")
ALL = JSMAInferer("all")


@pytest.fixture(scope="module")
def net() -> Any:
    return tiny_net().eval()


@pytest.fixture
def items(tmp_path) -> list[dict[str, Any]]:
    """Two regions of each of three slides of 64 x 64 pixels; the thumbnail of a region is read from the second page."""
    found = []
    for i in range(3):
        pixels = picture(64, 64, seed=i)
        path = write_pyramid(tmp_path / f"{i}.tif", levels_of(pixels, (2,)), tile=(16, 16), compression="zlib", mpp=1.0)
        regions: list[dict[str, Any]] = [{"location": [0, 0]}, {"location": [32, 32]}]
        found += [{"image": path, "size": [32, 32], "label": i, "patient": f"P{i}", **region} for region in regions]
    return found


def predict(
    folder: Path, items: list, net: Any, *, workers: int = 0, view: Any = VIEW, inferer: Any = ALL, **options: Any
) -> dict:
    """Predict in batches of four, by default from all patches; the metrics."""
    (folder.parent / "model.pt").write_bytes(options.pop("weights", b"weights"))
    saver = PredictionSaver(
        folder, items, class_names=CLASSES, model=folder.parent / "model.pt", **{"seed": 7, **options}
    )
    labelled = all("label" in item for item in items)
    keys = ["image", "pyramid", *(["label"] if labelled else [])]
    view = Compose([view, SelectItemsd(keys)])
    loader = DataLoader(
        PredictionDataset(items, view, saver.recorded), batch_size=4, num_workers=workers, collate_fn=collate_readable
    )
    accuracy = {"accuracy": Accuracy(from_engine(["pred", "label"]))} if labelled else None
    engine = JSMAPredictor(
        torch.device("cpu"),
        loader,
        net,
        inferer=inferer,
        postprocessing=Activationsd("pred", softmax=True),
        key_val_metric=accuracy,
        additional_metrics={"attention": AttentionShare(), "patches": PatchesRead()},
        val_handlers=[saver],
    )
    engine.run()
    return engine.state.metrics


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_hand(net: Any, item: dict) -> tuple[np.ndarray, list[float]]:
    """Probabilities and shares of the attention of one region."""
    loaded = VIEW(item)
    pyramids = PyramidBatch([loaded["pyramid"]])
    with torch.no_grad():
        output = net(loaded["image"].as_tensor()[None], pyramids, return_attention=True, num_patches="all")
    first = pyramids[0].geometry.offsets[1]
    attention = output["attention"][0]
    return output["logits"][0].softmax(0).numpy(), [float(attention[:first].sum()), float(attention[first:].sum())]


def test_the_tables(tmp_path, items, net):
    del items[1]["label"], items[4]["label"]
    items[2] = {**items[2], "group": "G"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "failed.csv").write_text("of an earlier run")
    predict(tmp_path / "out", items, net)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
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


def test_the_records(tmp_path, items, net):
    predict(tmp_path / "out", items, net, settings={"magnifications": (2.0, 1.0)})
    records = read_records(tmp_path / "out" / "predictions.jsonl")
    assert [(r.file, [*r.location], [*r.size], r.label, r.group) for r in records] == [
        (i["image"], i["location"], i["size"], i["label"], i["patient"]) for i in items
    ]
    run = records[0].run
    assert (run["seed"], run["settings"], run["datalist"]) == (7, {"magnifications": [2.0, 1.0]}, None)
    assert run["model"] == hashlib.sha256(b"weights").hexdigest()
    assert set(run["versions"]) == {"monai_jsma", "monai", "torch", "python"}
    assert len(records[0].patches) == 4 + 16
    assert {p.box[:2] for p in records[1].patches if p.magnification == "100X"} == {
        (32 + 8 * i, 32 + 8 * j) for i in range(4) for j in range(4)
    }


def vars_of(patch: PatchRecord) -> tuple:
    return tuple(vars(patch).values())


def spoil(items: list) -> list[dict[str, Any]]:
    """Items that fail when opened, in the thumbnail and in one patch, among the others; the others."""
    folder = Path(items[0]["image"]).parent
    (folder / "text.svs").write_text("no slide at all")
    bad = [{"image": str(folder / "text.svs"), "label": 0}]
    for name, page in (("thumbnail", 1), ("patch", 0)):
        path = write_pyramid(
            folder / f"{name}.tif", levels_of(picture(64, 64, 9), (2,)), tile=(16, 16), compression="zlib", mpp=1.0
        )
        begin, size = tile_range(path, page, 0)
        overwrite(path, begin, bytes(size))
        bad.append({"image": path, "label": 1, "location": [0, 0], "size": [32, 32]})
    sound = [{**bad[2], "location": [32, 32]}]  # of the slide with a damaged tile elsewhere
    items[:] = [bad[0], items[0], bad[1], items[1], items[2], bad[2], *items[3:], *sound]
    return [item for item in items if item not in bad]


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


def test_draws_go_into_records_and_tables(tmp_path, items, net):
    predict(tmp_path / "out", items, net, inferer=JSMAInferer(3, 4, seed=7))
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
    inferer = JSMAInferer(k, draws, seed=seed)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(inferer(image, lambda *_, **__: torch.initial_seed(), pyramid=pyramids))
        return np.concatenate([net(image, pyramids, num_patches=k, draws=1).softmax(1).numpy() for _ in range(draws)])


def test_draws_do_not_depend_on_the_folder(tmp_path, items, net):
    """The same pictures elsewhere, by paths that are written otherwise."""
    inferer = JSMAInferer(3, 2, seed=7)
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
    predict(tmp_path / "sound", sound, net, inferer=JSMAInferer(3, 2, seed=7))
    torch.rand(1)
    with pytest.raises(RuntimeError, match=r"^[23] of 10 regions failed"):
        predict(tmp_path / "out", items, net, inferer=JSMAInferer(3, 2, seed=7))
    alone = {r.key: r for r in read_records(tmp_path / "sound" / "predictions.jsonl")}
    found = {r.key: r for r in read_records(tmp_path / "out" / "predictions.jsonl")}
    assert set(alone) <= set(found)
    for key, record in alone.items():
        assert [p[:4] for p in map(vars_of, record.patches)] == [p[:4] for p in map(vars_of, found[key].patches)]
        assert record.spread == pytest.approx(found[key].spread, abs=1e-7)
    assert any(max(r.spread) > 1e-4 for r in alone.values())
    assert len({tuple(p.box for p in r.patches) for r in alone.values() if r.location == (0, 0)}) > 1


def test_in_a_validation_a_failure_ends_the_run(items, net):
    spoil(items)
    data = [{key: view[key] for key in ("image", "pyramid")} for view in map(VIEW, (items[1], items[5]))]
    engine = JSMAEvaluator(torch.device("cpu"), DataLoader(data, batch_size=2), net, inferer=JSMAInferer("all"))
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


def stopped(folder: Path, whole: bytes, lines: int) -> None:
    """A folder as a kill leaves it: so many lines, and half of the next."""
    folder.mkdir()
    kept = whole.splitlines(keepends=True)
    (folder / "predictions.jsonl.part").write_bytes(b"".join(kept[:lines]) + kept[lines][:100])


@pytest.mark.parametrize("inferer", [ALL, JSMAInferer(3, 2, seed=7)], ids=["all", "draws"])
@pytest.mark.parametrize("lines", [0, 2, 5])
def test_a_killed_run_goes_on(tmp_path, items, net, lines, inferer):
    expected = predict(tmp_path / "whole", items, net, inferer=inferer)
    whole = (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    stopped(tmp_path / "out", whole, lines)
    opened: list[str] = []

    def view(item):
        opened.append((item["image"], item["location"]))
        return VIEW(item)

    metrics = predict(tmp_path / "out", items, net, view=view, inferer=inferer)
    assert opened == [(item["image"], item["location"]) for item in items[lines:]]
    assert metrics == pytest.approx(expected)
    assert [r.key for r in read_records(tmp_path / "out" / "predictions.jsonl")] == [
        (i["image"], tuple(i["location"]), (32, 32)) for i in items
    ]
    for name in ("predictions.csv", "slides.csv"):
        for row, other in zip(table(tmp_path / "out" / name), table(tmp_path / "whole" / name), strict=True):
            assert row.keys() == other.keys()
            for key, value in row.items():
                same = float(value) == pytest.approx(float(other[key]), abs=1e-6) if "_" in key else value == other[key]
                assert same, (name, key)
    assert not (tmp_path / "out" / "predictions.jsonl.part").exists()


def test_certified_stopping_goes_into_records_tables_and_metrics(tmp_path, items):
    net = tiny_net(feature_norm="l2").eval()
    torch.nn.init.normal_(net.classifier.weight, std=2.0)
    options = {"inferer": JSMAInferer("certified", seed=7, max_patches=12)}
    metrics = predict(tmp_path / "whole", items, net, **options)
    records = read_records(tmp_path / "whole" / "predictions.jsonl")
    assert 0 < sum(r.certified for r in records) < len(records)
    assert {r.patches_read for r in records if not r.certified} == {12}
    rows = table(tmp_path / "whole" / "predictions.csv")
    for item, record, row in zip(items, records, rows, strict=True):
        everything, _ = by_hand(net, item)
        assert record.prediction == everything.argmax() or not record.certified
        low, high = np.transpose(record.intervals)
        assert (low <= everything).all() and (everything <= high).all()  # noqa: PT018
        assert (float(row["patches_read"]), float(row["certified"])) == (record.patches_read, record.certified)
        assert [float(row[f"low_{name}"]) for name in CLASSES] == low.tolist()
        assert [float(row[f"high_{name}"]) for name in CLASSES] == high.tolist()
    slide = table(tmp_path / "whole" / "slides.csv")[0]
    assert float(slide["patches_read"]) == sum(r.patches_read for r in records[:2]) / 2
    assert float(slide["certified"]) == sum(r.certified for r in records[:2]) / 2
    assert metrics["patches_read"] == pytest.approx(sum(r.patches_read for r in records) / len(records))
    assert metrics["patches_certified"] == pytest.approx(sum(r.certified for r in records) / len(records))
    stopped(tmp_path / "out", (tmp_path / "whole" / "predictions.jsonl").read_bytes(), 3)
    assert predict(tmp_path / "out", items, net, **options) == pytest.approx(metrics)


def test_all_was_predicted_but_not_put_in_place(tmp_path, items, net):
    expected = predict(tmp_path / "whole", items, net)
    whole = (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.jsonl.part").write_bytes(whole)
    assert predict(tmp_path / "out", items, net) == pytest.approx(expected)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": b"other"}, "an unfinished run with another model; finish it as it was begun, delete the file"),
        ({"seed": 8}, "with another seed;"),
        ({"settings": {"num_patches": 3}}, "with another settings;"),
    ],
)
def test_a_run_of_something_else_is_not_gone_on_with(tmp_path, items, net, change, message):
    predict(tmp_path / "out", items, net)
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    (tmp_path / "out" / "predictions.jsonl.part").write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match=message):
        predict(tmp_path / "out", items, net, **change)
    with pytest.raises(ValueError, match="an unfinished run of other regions"):
        predict(tmp_path / "out", items[1:], net)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before


def test_no_tissue_at_all_is_no_success(tmp_path, net):
    unread = [Unread("a.svs", "tissue", "a.svs: no tissue found")]
    with pytest.raises(RuntimeError, match=r"^nothing to predict: no tissue in any slide; see .*slides\.csv"):
        predict(tmp_path / "out", [], net, unread=unread)
    assert [(s["file"], s["regions"], s["status"]) for s in table(tmp_path / "out" / "slides.csv")] == [
        ("a.svs", "0", "no tissue")
    ]
    with pytest.raises(RuntimeError, match=r"^1 of 1 regions failed.*b\.svs: no slide"):
        predict(tmp_path / "out", [], net, unread=[*unread, Unread("b.svs", "slide", "b.svs: no slide")])
    assert [s["status"] for s in table(tmp_path / "out" / "slides.csv")] == ["no tissue", "failed"]


def test_slides_without_tissue_beside_others(tmp_path, items, net):
    predict(tmp_path / "out", items, net, unread=[Unread("a.svs", "tissue", "a.svs: no tissue found")])
    statuses = [s["status"] for s in table(tmp_path / "out" / "slides.csv")]
    assert statuses == ["ok", "ok", "ok", "no tissue"]


def test_wrong_items(tmp_path, items, net):
    with pytest.raises(ValueError, match=r"0\.tif: given twice"):
        predict(tmp_path / "out", [*items, items[0]], net)
    with pytest.raises(ValueError, match=r"0\.tif: 'location' must be two whole numbers of level-0 pixels, but is 5"):
        predict(tmp_path / "out", [{**items[0], "location": 5}], net)
    with pytest.raises(ValueError, match=r"each class needs a name of its own, but they are \['a', 'a'\]"):
        PredictionSaver(tmp_path, items, model="model.pt", class_names=["a", "a"])
    items[1]["label"] = 3
    with pytest.raises(ValueError, match=r"0\.tif: label 3 is none of the 3 classes"):
        predict(tmp_path / "out", items, net)
