# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``compare`` and ``crossval`` on a small bundle, and what ``demo`` prints."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bundle_runs import TINY, copy_bundle

from monai_jsma.__main__ import main
from monai_jsma.cli.train import format_answer, read_metrics
from monai_jsma.data import make_dataset, shuffle_labels
from monai_jsma.predictions.records import read_records


def test_the_demo_prints_the_attention_beside_the_answer(tmp_path):
    values = {
        "val_accuracy": 0.75,
        "attention_share_200X": 0.25,
        "attention_enrichment_200X": 0.5,
        "attention_share_50X": 0.75,
        "attention_enrichment_50X": 3.0,
    }
    (tmp_path / "metrics.csv").write_text("".join(f"{name},{value}\n" for name, value in values.items()))
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert metrics == values
    datalist = {"true_magnification": "50X", "labels": {"0": "a", "1": "b"}, "test": [{}] * 3}
    assert format_answer(datalist, metrics, Path("demo")).splitlines() == [
        "",
        "accuracy on 3 test images  0.750  (chance 0.500)",
        "attention at   50X   75.0%  (3.00 times its share of the cells)  <- the magnification that shows the class",
        "attention at  200X   25.0%  (0.50 times its share of the cells)",
        "",
        "TensorBoard log   tensorboard --logdir demo/runs",
        "attention images  demo/eval/attention",
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Twelve small pictures of six patients with a copy of the bundle; arguments of all commands."""
    folder = tmp_path_factory.mktemp("crossval")
    content = json.loads(make_dataset(folder / "data", num_train=12, num_validation=1, num_test=4, seed=1).read_text())
    for i, item in enumerate(content["training"]):
        item["patient"] = f"P{i // 2}"
    kept = {name: content[name] for name in ("labels", "mpp", "training")}
    (folder / "data" / "training.json").write_text(json.dumps(kept))
    values = [f"{name}={json.dumps(v) if isinstance(v, dict) else v}" for name, v in {**TINY, "epochs": 1}.items()]
    bundle = ["--bundle", str(copy_bundle(folder)), "--config", "demo", "--jobs", "2"]
    return folder, [*bundle, "--set", *values, "validation_list=training"]


@pytest.fixture(scope="module")
def folds(small):
    """The command that cross-validates, and the folder that it writes."""
    folder, options = small
    out = folder / "folds"
    return [
        "crossval",
        str(folder / "data" / "training.json"),
        "--folds=2",
        "--no-validation",
        f"--out={out}",
        *options,
    ], out


def test_each_picture_is_predicted_once_by_the_folds(folds, capsys, monkeypatch):
    args, out = folds
    assert main(args) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].startswith("[2/2] multi/seed0/fold")
    records = read_records([out / f"multi/seed0/fold{fold}/eval/predictions.jsonl" for fold in range(2)])
    assert len({record.file for record in records}) == len(records) == 12
    right = sum(record.prediction == record.label for record in records)
    table = [line.split(",") for line in (out / "runs.csv").read_text().splitlines()[1:]]
    assert [row[:3] for row in table] == [["multi", "0", "0"], ["multi", "0", "1"]]
    assert sum(int(row[6]) for row in table) == right
    found = json.loads((out / "variants.json").read_text())["variants"]["multi"]
    assert found["scores"]["accuracy"]["value"] == pytest.approx(right / 12)
    share = np.mean([record.shares["100X"] for record in records])
    assert found["attention"]["100X"]["share"] == pytest.approx(share, abs=1e-6)
    assert printed[-1] == str(out / "report" / "report.html")

    def nothing(*args, **kwargs):
        raise AssertionError("what is finished must not be done again")

    monkeypatch.setattr(subprocess, "run", nothing)
    assert main(args) == 0
    assert capsys.readouterr().out.splitlines()[2:] == printed[2:]
    assert main([*args, "epochs=2"]) == 1
    assert "other data or settings; name another --out" in capsys.readouterr().err


def test_variants_are_compared_on_the_split_of_the_datalist(small, capsys):
    folder, options = small
    args = ["compare", str(folder / "data" / "datalist.json"), f"--out={folder / 'compare'}", *options]
    assert main([*args, "magnifications=[1.0,0.5]", "--variants", "single"]) == 0, capsys.readouterr().out
    content = json.loads((folder / "compare" / "variants.json").read_text())["variants"]
    assert list(content) == ["100X", "200X"]
    for name, found in content.items():
        assert found["attention"] == {name: {"share": pytest.approx(1), "enrichment": pytest.approx(1)}}
        records = read_records(folder / f"compare/{name}/seed0/fold0/eval/predictions.jsonl")
        assert len(records) == 4
        assert records[0].magnifications == ({"100X": 1.0, "200X": 0.5}[name],)


def test_shuffled_labels_are_trained_on_and_the_true_ones_tested(small, capsys):
    folder, options = small
    path = folder / "data" / "datalist.json"
    args = ["compare", str(path), f"--out={folder / 'shuffled'}", *options, "--variants", "shuffled_labels"]
    assert main(args) == 0, capsys.readouterr().out
    run = folder / "shuffled" / "shuffled_labels" / "seed0" / "fold0"
    logs = {name: (run / f"{name}.log").read_text().splitlines()[0] for name in ("training", "evaluating")}
    dealt = folder / "shuffled" / "datalists" / "fold0_shuffled0.json"
    assert f"--data_list_file_path={dealt} " in logs["training"]
    assert json.loads(dealt.read_text()) == shuffle_labels(json.loads(path.read_text()), seed=0)
    labels = [record.label for record in read_records(run / "eval" / "predictions.jsonl")]
    assert labels == [item["label"] for item in json.loads(path.read_text())["test"]]
    assert f"--data_list_file_path={dealt.with_name('fold0.json')} " in logs["evaluating"]


def test_an_item_of_any_split_that_is_none_is_named(small, tmp_path, capsys):
    (tmp_path / "broken.json").write_text(json.dumps({"training": [{"image": "a.png"}], "test": ["b.png"]}))
    for command in ("compare", "crossval"):
        assert main([command, str(tmp_path / "broken.json"), f"--out={tmp_path}", *small[1]]) == 1
        message = "test[0]: an item is an object with the path of its 'image', but got 'b.png'"
        assert f"{tmp_path / 'broken.json'}: {message}" in capsys.readouterr().err


def test_a_run_that_fails_is_named_with_its_log(folds, tmp_path, capsys):
    args = [f"--out={tmp_path}" if arg.startswith("--out") else arg for arg in folds[0]]
    assert main([*args, "lr=fast"]) == 1
    assert "train.json: 'lr': expected a number, but got 'fast'." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []  # nothing was begun

    assert main([*args, "thumbnail_backbone=resnet19"]) == 1
    printed = capsys.readouterr().out
    assert "training ended with exit code 1: unknown backbone 'resnet19': timm has no model of that n" in printed
    assert f"all of it in {tmp_path / 'multi' / 'seed0' / 'fold0' / 'training.log'}" in printed
    assert "2 of 2 runs failed" in printed


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--seeds=a"], "--seeds 'a'"),
        (["--set", "epochs"], "NAME=VALUE"),
        (["--variants", "x"], "in variants/ beside it: aligned"),
        (["--config", "y"], "y.json: no such file"),
    ],
)
def test_a_wrong_option_is_named(folds, tmp_path, capsys, option, message):
    assert main([*folds[0][:4], f"--out={tmp_path}", *folds[0][5:7], *option]) == 1
    assert message in capsys.readouterr().err
