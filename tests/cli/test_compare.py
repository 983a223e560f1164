# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``compare`` and ``crossval`` on a small bundle."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from bundle_runs import TINY, copy_bundle
from warm_python import warm_python

from monai_jsma.__main__ import main
from monai_jsma.data import make_dataset, shuffle_labels
from monai_jsma.predictions.records import read_records


@pytest.fixture(autouse=True)
def python_that_starts_at_once(monkeypatch):
    monkeypatch.setattr(sys, "executable", str(warm_python()))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Twelve small pictures of six patients with a copy of the bundle; arguments of all commands."""
    folder = tmp_path_factory.mktemp("crossval")
    content = json.loads(make_dataset(folder / "data", num_train=12, num_validation=1, num_test=4, seed=1).read_text())
    for i, item in enumerate(content["training"]):
        item["patient"] = f"P{i // 2}"
    kept = {name: content[name] for name in ("labels", "mpp", "training")}
    (folder / "data" / "training.json").write_text(json.dumps(kept))
    bundle = copy_bundle(folder)
    (bundle / "configs" / "tiny.json").write_text(json.dumps(TINY))
    options = ["--bundle", str(bundle), "--config", "demo", "tiny", "--jobs", "2"]
    return folder, [*options, "--set", "epochs=1", "validation_list=training"]


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

    monkeypatch.setattr(subprocess, "Popen", nothing)
    assert main(args) == 0
    assert capsys.readouterr().out.splitlines()[2:] == printed[2:]
    assert main([*args, "epochs=2"]) == 1
    printed = capsys.readouterr().out
    assert 'holds runs of other data or settings: \'values#epochs\' was "1" and is "2". They are kept' in printed


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


@pytest.fixture
def never_run(monkeypatch):
    """No command of a bundle is started: what is printed comes from what was finished before."""

    def nothing(*args, **kwargs):
        raise AssertionError("what is finished must not be done again")

    monkeypatch.setattr(subprocess, "Popen", nothing)


def test_a_variant_and_a_seed_are_added_to_finished_runs(folds, capsys):
    args, out = folds
    assert main(args) == 0
    before = (out / "multi/seed0/fold0/models/model.pt").stat().st_mtime_ns
    assert main([*args, "--variants", "multi", "balanced_random_patches"]) == 0, capsys.readouterr().out
    table = [line.split(",")[:3] for line in (out / "runs.csv").read_text().splitlines()[1:]]
    assert table == [[variant, "0", fold] for variant in ("multi", "balanced_random_patches") for fold in "01"]
    tables = (out / "tables.md").read_text()
    assert tables.count("| balanced_random_patches |") == 2
    control = json.loads((out / "variants.json").read_text())["variants"]["balanced_random_patches"]
    assert control["patches"]["inference"] == 2
    assert control["patches"]["cells"] == 84

    assert main([*args, "--seeds=0,1"]) == 0, capsys.readouterr().out
    assert (out / "multi/seed0/fold0/models/model.pt").stat().st_mtime_ns == before
    content = json.loads((out / "variants.json").read_text())
    assert (content["seeds"], content["folds"]) == ([0, 1], 2)
    found = content["variants"]["multi"]
    records = [read_records(path) for path in sorted(out.glob("multi/seed*/fold*/eval/predictions.jsonl"))]
    accuracies = [np.mean([record.prediction == record.label for record in run]) for run in records]
    assert sorted(found["runs"]["accuracy"]["values"]) == pytest.approx(sorted(accuracies))
    assert found["runs"]["accuracy"]["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert 1 <= found["patches"]["training"] <= 2  # two independent draws may be the same cell
    assert "4 runs (2 seeds x 2 folds)" in (out / "tables.md").read_text()


def test_a_changed_overlay_blocks_its_own_variant_only(small, folds, capsys, never_run, tmp_path):
    args, out = folds
    overlay = small[0] / "variants" / "balanced_random_patches.json"
    text = overlay.read_text()
    overlay.write_text(text.replace('"alpha": 0.0', '"alpha": 0.5'))
    try:
        assert main([*args, "--variants", "multi", "balanced_random_patches"]) == 1
    finally:
        overlay.write_text(text)
    printed = capsys.readouterr().out
    changed = "'configs#../variants/balanced_random_patches.json#alpha' was 0.0 and is 0.5"
    assert f"{out / 'balanced_random_patches'} holds runs of other data or settings: {changed}" in printed
    assert "multi/seed0/fold1: done" in printed
    assert printed.count("\nmulti ") == 2  # a row in each table


def test_other_data_name_what_differs(small, folds, tmp_path, capsys, never_run):
    args, out = folds
    path = small[0] / "data" / "training.json"
    text = path.read_text()
    content = json.loads(text)
    content["training"][0]["patient"] = "another"
    path.write_text(json.dumps(content))
    try:
        assert main(args) == 1
    finally:
        path.write_text(text)
    assert 'was "P0" and is "another"' in capsys.readouterr().err


def test_a_control_that_did_something_else_is_reported(folds, capsys, never_run):
    args, out = folds
    path = out / "balanced_random_patches/seed0/fold0/eval/predictions.jsonl"
    text = path.read_text()
    records = [json.loads(line) for line in text.splitlines()]
    records[0]["attention"][0], records[0]["attention"][5] = 0.1, 1 / 12 + 1 / 48 - 0.1
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    try:
        assert main([*args, "--variants", "multi", "balanced_random_patches"]) == 1
    finally:
        path.write_text(text)
    printed = capsys.readouterr().out
    assert "variant 'balanced_random_patches' is not what it is called: " in printed
    assert "but in 1 of 12 regions" in printed
    assert "report.html" in printed  # the tables are there all the same


def test_networks_with_attention_are_tested_until_their_labels_are_certain(small, capsys):
    folder, options = small
    args = ["compare", str(folder / "data" / "datalist.json"), f"--out={folder / 'certify'}", *options, "--certify"]
    variants = ["--variants", "multi", "random_patches"]
    assert main([*args, *variants]) == 0, capsys.readouterr().out
    content = json.loads((folder / "certify" / "variants.json").read_text())["variants"]
    assert content["random_patches"]["certified"] is None
    run = folder / "certify" / "multi" / "seed0" / "fold0"
    usual = {record.key: record for record in read_records(run / "eval" / "predictions.jsonl")}
    certified = read_records(run / "certified" / "predictions.jsonl")
    found = content["multi"]["certified"]
    assert found["patches"] == pytest.approx(np.mean([record.patches_read for record in certified]))
    agreement = [record.prediction == usual[record.key].prediction for record in certified if record.certified]
    assert found["agreement"] == pytest.approx(np.mean(agreement))
    within = [record.certified and record.patches_read <= 2 for record in certified]
    assert found["share"] == pytest.approx(np.mean(within))
