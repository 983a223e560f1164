# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The experiments: their measures against figures worked out by hand, and the smallest run from pictures to tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from monai.bundle import ConfigParser
from places import ROOT

from monai_jsma.__main__ import build_parser
from monai_jsma.cli.bundles import read_config
from monai_jsma.cli.variants import make_variants
from monai_jsma.data import Box, make_dataset
from monai_jsma.predictions.records import PatchRecord, PredictionRecord

FOLDER = ROOT / "experiments"
MODULES = ("known_answer", "measures", "real_slides", "real_tissue", "runs")


@pytest.fixture(scope="module")
def experiments() -> Iterator[dict[str, ModuleType]]:
    """The modules of the experiments by name."""
    sys.path.insert(0, str(FOLDER))
    yield {name: __import__(name) for name in MODULES}
    sys.path.remove(str(FOLDER))
    for name in MODULES:
        del sys.modules[name]


def record(
    name: str, attention: Mapping[int, float], prediction: int, *, read: int = 1, magnifications=(2.0, 1.0, 0.5), **more
) -> PredictionRecord:
    """A record of an image of class 1; ``attention`` by cell, 0 elsewhere."""
    cells = {3: 84, 1: 16}[len(magnifications)]
    box = Box(0, 0, 64, 64)
    patch = PatchRecord(magnification="100X", mpp=1.0, row=0, col=0, box=box, attention=0.1, weight=1.0)
    return PredictionRecord(
        file=f"folder/test/{name}",
        location=(0, 0),
        size=(256, 256),
        mpp=0.5,
        mpp_source="given",
        classes=("a", "b"),
        probabilities=(1 - prediction, prediction),
        label=1,
        group=name,
        magnifications=magnifications,
        patch_size=32,
        attention=tuple(attention.get(cell, 0.0) for cell in range(cells)),
        patches=(patch,) * read,
        **more,
    )


ITEMS = [
    {"image": "test/0.png", "level": "100X", "cell": 5},  # cells 0-3 are 50X, 4-19 100X, 20-83 200X
    {"image": "test/1.png", "level": "200X", "cell": [25, 30]},
]
DATALIST = {"magnifications": [2.0, 1.0, 0.5], "test": ITEMS}
SURE = {0: 0.3, 5: 0.6, 30: 0.1}
UNSURE = {7: 0.4, 8: 0.2, 9: 0.15, 10: 0.14, 25: 0.06, 30: 0.05}


def test_measures_are_those_worked_out_by_hand(experiments):
    attention = SURE, UNSURE
    found = experiments["measures"].measure(
        {
            1: [record("0.png", attention[0], 0), record("1.png", attention[1], 0)],
            "all": [record("0.png", attention[0], 1), record("1.png", attention[1], 0)],
            "certified": [
                record("0.png", attention[0], 1, read=2, certified=True),
                record("1.png", attention[1], 1, read=5, certified=False),
            ],
        },
        DATALIST,
    )
    assert found == pytest.approx({
        "accuracy 1": 0.0,
        "accuracy all": 0.5,
        "accuracy certified": 1.0,
        "share": (0.6 + 0.11) / 2,
        "enrichment": (0.6 + 0.11) / (16 / 84 + 64 / 84),
        "magnification right": 0.5,
        "cell share": (0.6 + 0.11) / 2,
        "cell among 4": 0.5,
        "patches read": 3.5,
        "certified": 0.5,
        "agreement": 1.0,  # of the certain ones; the other may say what it likes
    })  # fmt: skip


def test_a_certain_label_that_is_not_that_of_all_patches_is_seen(experiments):
    every = [record("0.png", SURE, 1), record("1.png", UNSURE, 0)]
    certain = [record(f"{i}.png", SURE, 1, certified=True) for i in range(2)]
    found = experiments["measures"].measure({"all": every, "certified": certain}, DATALIST)
    assert (found["certified"], found["agreement"]) == (1.0, 0.5)


def test_what_has_no_meaning_has_no_number(experiments):
    measure = experiments["measures"].measure
    flat = [record("0.png", dict.fromkeys(range(84), 1 / 84), 1)]
    where = ("share", "enrichment", "magnification right", "cell share", "cell among 4")
    found = measure({"all": flat}, DATALIST)
    assert all(found[name] is None for name in (*where, "patches read", "certified", "agreement"))
    alone = {cell - 4: value for cell, value in UNSURE.items() if cell < 20} | {1: 0.11}
    found = measure({"all": [record("0.png", alone, 1, magnifications=(1.0,))]}, DATALIST)
    assert [found[name] for name in where] == [None, None, None, pytest.approx(0.11), 0.0]
    other = measure({"all": [record("1.png", alone, 1, magnifications=(1.0,))]}, DATALIST)
    assert all(other[name] is None for name in where)


def test_tables_hold_means_and_the_worst_seed(experiments):
    base: dict[str, Any] = {
        "share": 0.5, "enrichment": 2.5, "magnification right": 1.0, "cell share": 0.25, "cell among 4": 1.0,
        "patches read": 3.0, "certified": 1.0, "agreement": 1.0, "patches": 4.0,
    }  # fmt: skip
    runs = [
        {**base, "variant": "also", "seed": 0, "accuracy 1": 1.0, "seconds": 30.0, "certified": None},
        {**base, "variant": "defaults", "seed": 0, "accuracy 1": 1.0, "accuracy all": 0.9, "seconds": 55.0},
        {**base, "variant": "defaults", "seed": 1, "accuracy 1": 0.5, "accuracy all": 0.9, "seconds": 65.0,
         "patches read": 5.0, "agreement": None},
        {**base, "variant": "paper", "seed": 0, "accuracy 1": 0.3, "accuracy all": 0.9, "seconds": 50.0},
    ]  # fmt: skip
    first, second = experiments["measures"].tables(runs).strip().split("\n\n")
    assert first.splitlines() == [
        "| variant | seeds | accuracy, 1 | accuracy, all |",
        "|---|---|---|---|",
        "| defaults | 2 | 0.750 (0.500) | 0.900 |",
        "| paper | 1 | 0.300 | 0.900 |",
        "| also | 1 | 1.000 |  |",
    ]
    lines = [line.strip("| ").split(" | ") for line in second.splitlines()]
    worst = "4.000 (5.000)"
    assert lines[2] == ["defaults", "0.500 (2.50)", "1.000", "0.250", "1.000", worst, "1.000", "", "4.0", "1.20"]
    assert lines[4] == ["also", "0.500 (2.50)", "1.000", "0.250", "1.000", "3.000", "", "1.000", "4.0", "0.60"]


def test_variants_are_named_and_can_be_trained(experiments):
    variants = experiments["known_answer"].choose_variants
    controls = [variant.name for variant in variants(["controls"])]
    assert controls == ["random_patches", "thumbnail_only", "50X", "100X", "200X", "shuffled_labels"]
    every = variants(["combinations"])
    samplers = {variant.values["sampler"] for variant in every}
    assert len({variant.name for variant in every}) == 28 == 4 * len(samplers)
    for sampler in samplers:
        parser = ConfigParser({"imports": ["$import monai_jsma"], "num_patches": 16, "sampler": sampler})
        assert parser.get_parsed_content("sampler").k == 16
    assert [v.name for v in variants(["paper", "100X", "paper"])] == ["paper", "100X"]
    with pytest.raises(ValueError, match="--variants 'peper': choose from controls, combinations, defaults"):
        variants(["peper"])


@pytest.fixture
def small(experiments, tmp_path, monkeypatch):
    """The command on eight pictures, and its folder."""

    def command(*args: str) -> str | int | None:
        sizes = ["--train=8", "--validation=4", "--test=4", "--epochs=5", "--seeds=0"]
        monkeypatch.setattr(sys, "argv", ["known_answer.py", *sizes, f"--out={tmp_path}", *args])
        try:
            return experiments["known_answer"].main()
        except SystemExit as end:
            return end.code

    return command, tmp_path / "mixed"


def test_runs_are_finished_once(experiments, small, monkeypatch, capsys):
    command, folder = small
    args = ("--task=mixed", "--variants", "defaults", "thumbnail_only")
    assert command(*args) is None
    runs = json.loads((folder / "tables.json").read_text())
    assert [run["variant"] for run in runs] == ["defaults", "thumbnail_only"]
    assert runs[1]["patches"] == 1  # the whole picture; of 16 draws each different cell is encoded once
    assert 1 < runs[0]["patches"] <= 16
    assert {key for key in runs[0] if key.startswith("accuracy")} == {
        f"accuracy {k}" for k in (1, 2, 5, 16, "all", "certified")
    }
    assert (folder / "tables.md").read_text() in capsys.readouterr().out
    lost = folder / "defaults" / "seed0" / "patches_5" / "predictions.jsonl"
    kept = lost.read_text()
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}

    def nothing(*args: Any) -> None:
        raise AssertionError("what is trained must not be trained again")

    with monkeypatch.context() as patch:
        patch.setattr(experiments["runs"].AskedRun, "_train", nothing)
        assert command(*args) is None
    assert lost.read_text() == kept
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before
    assert json.loads((folder / "tables.json").read_text()) == runs
    again = folder.parent / "again"
    assert command("--task=mixed", "--variants", "thumbnail_only", f"--out={again}") is None
    predictions = Path("thumbnail_only", "seed0", "patches_all", "predictions.csv")
    one, other = ((place / predictions).read_text() for place in (folder, again / "mixed"))
    assert [line.split(",")[7:] for line in one.splitlines()] == [line.split(",")[7:] for line in other.splitlines()]
    assert "run of other settings; name another --out" in str(command(*args, "--epochs=6"))
    assert "other numbers of images; name another --out" in str(command(*args, "--train=9"))


def test_digits_have_settings_and_numbers_of_their_own(experiments, small):
    command, folder = small
    assert command("--task=digits", "--train=10", "--epochs=2", "--variants", "defaults") is None
    (run,) = json.loads((folder.parent / "digits" / "tables.json").read_text())
    assert [key for key in run if key.startswith("accuracy")] == [
        f"accuracy {k}" for k in (1, 2, 4, 5, "all", "certified")
    ]
    assert run["patches"] > 5  # both epochs are of the warm start, with 16 patches; later ones have 4
    args = type("Args", (), {"task": "digits", "train": None, "validation": 7, "test": None})
    assert experiments["known_answer"].choose_sizes(args) == {"training": 4000, "validation": 7, "test": 500}
    args.task, args.train = "dense", 0  # which make_dataset refuses
    assert experiments["known_answer"].choose_sizes(args) == {"training": 0, "validation": 7, "test": 128}


def test_pictures_are_those_of_the_seed(experiments, small):
    known_answer, folder = experiments["known_answer"], small[1]
    parser_args = type("Args", (), {"out": folder.parent, "task": "mixed", "train": 4, "validation": 1, "test": 1})
    parser_args.epochs, parser_args.patches = None, 8
    (variant,) = known_answer.choose_variants(["defaults"])
    for seed in (3, 4):
        one, datalist = known_answer.plan_run(parser_args, variant, seed)
        made = json.loads(
            make_dataset(
                folder / "again", num_train=4, num_validation=1, num_test=1, seed=seed, task="mixed"
            ).read_text()
        )
        assert datalist["test"] == made["test"]
        assert (one.values["seed"], one.values["num_patches"]) == (seed, 8)
        assert "epochs" not in one.values  # the bundle's
        assert len(made["training"]) == 4
    (variant,) = known_answer.choose_variants(["shuffled_labels"])
    one, datalist = known_answer.plan_run(parser_args, variant, seed)
    assert datalist["test"] == made["test"]
    assert one.values["data_list_file_path"].name == "datalist.json"
    assert one.training["data_list_file_path"].name == "shuffled.json"  # only to train on


def test_the_experiment_on_real_tissue_is_a_cross_validation_of_all_controls(experiments, monkeypatch):
    real_tissue = experiments["real_tissue"]
    given = ["cores.json", "--base-dir=cores", "--set", "mpp=1.0", "num_patches=10", "--config", "frozen", "--out=here"]
    asked = []
    monkeypatch.setattr(real_tissue, "run_command", lambda command: asked.append(command) or 0)
    monkeypatch.setattr(sys, "argv", ["real_tissue.py", *given])
    assert real_tissue.main() == 0
    args = build_parser().parse_args(asked[0])
    assert (str(args.datalist), str(args.base_dir), str(args.out)) == ("cores.json", "cores", "here")
    assert args.values == ["mpp=1.0", "num_patches=10"]
    assert args.config == ["frozen"]
    assert (args.folds, args.test_folds, args.seeds, args.certify) == (5, "0,1,2", "0,1,2,3,4", True)
    assert not args.no_validation
    made = make_variants(args.bundle, args.variants, configs=args.config, values={"mpp": "1.0", "num_patches": "10"})
    names = [variant.name for variant in made]
    assert names[:4] == ["multi", "25X", "50X", "100X"]
    rest = set(names[4:])
    controls = {"random_patches", "balanced_random_patches", "all_patches", "attention_mil", "whole_image"}
    assert rest == controls | {"paper", "mean_features", "shuffled_labels"}

    monkeypatch.setattr(sys, "argv", ["real_tissue.py", *given, "--no-validation"])
    assert real_tissue.main() == 0
    assert build_parser().parse_args(asked[1]).no_validation


# -------------------------------------------------------------------------------------------- slides of real tissue


def write_mosaics(folder: Path) -> Path:
    """Two slides of 2 x 2 places: one with two of three cores positive, and one with none."""
    folder.mkdir()
    content = {"labels": {"0": "no", "1": "yes"}, "settings": {"grid": [2, 2]}, "test": []}
    (folder / "datalist.json").write_text(json.dumps(content))
    rows = ["image,label,positive,place_row,place_col"]
    rows += ["fold0/a.tif,1,1,0,0", "fold0/a.tif,1,0,0,1", "fold0/a.tif,1,1,1,1"]
    rows += ["fold0/b.tif,0,0,0,0", "fold0/b.tif,0,0,1,0"]
    (folder / "cores.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_slides_of_real_tissue_are_known_by_their_cores(experiments, tmp_path):
    real_slides = experiments["real_slides"]
    mosaics = real_slides.read_mosaics(write_mosaics(tmp_path / "mosaics"))
    assert mosaics["a.tif"].positive == {(0, 0), (1, 1)}
    assert mosaics["a.tif"].burden == pytest.approx(2 / 3)
    assert (mosaics["b.tif"].burden, mosaics["b.tif"].num_cores) == (0, 2)


def test_attention_on_positive_cores_is_that_of_their_cells(experiments, tmp_path):
    real_slides = experiments["real_slides"]
    mosaic = real_slides.read_mosaics(write_mosaics(tmp_path / "mosaics"))["a.tif"]
    # 84 cells of 2 x 2, 4 x 4 and 8 x 8: at 2.0 the first and the last, at 1.0 one of each place
    attention = {0: 0.1, 1: 0.2, 3: 0.05, 4: 0.15, 4 + 3: 0.25, 4 + 15: 0.05, 20 + 63: 0.2}
    one = record("a.tif", attention, 1)
    assert real_slides.measure_mass(one, mosaic) == pytest.approx(0.1 + 0.05 + 0.15 + 0.05 + 0.2)


def test_bets_are_counted_against_the_labels_of_all_patches(experiments):
    real_slides = experiments["real_slides"]
    certain = [record(name, {0: 1.0}, 1, certified=sure) for name, sure in (("a", True), ("b", True), ("c", False))]
    of_all = [record("a", {0: 1.0}, 1), record("b", {0: 1.0}, 0), record("c", {0: 1.0}, 0)]
    text = real_slides.describe_bets([certain], [of_all])
    assert "2 of 3 certified (0.67), 1 of them with the label of all patches" in text
    other = [record(name, {0: 1.0}, 0) for name in "abc"]  # another seed: its labels are compared with its own
    text = real_slides.describe_bets([certain, certain], [of_all, other])
    assert "4 of 6 certified (0.67), 1 of them with the label of all patches" in text


def test_networks_of_several_seeds_are_not_compared_with_each_other(experiments, tmp_path):
    """Each ranks its slides perfectly, but the negative one of the second is above the positive one of the first."""
    real_slides = experiments["real_slides"]
    mosaics = real_slides.read_mosaics(write_mosaics(tmp_path / "mosaics"))
    runs = []
    for low, high in ((0.1, 0.2), (0.8, 0.9)):
        negative = replace(record("b.tif", {0: 1.0}, 0), label=0, probabilities=[1 - low, low])
        positive = replace(record("a.tif", {0: 1.0}, 1), label=1, probabilities=[1 - high, high])
        runs.append([negative, positive])
    text = real_slides.describe_variant("zoom", {0: runs}, mosaics)
    assert "  AUC 1.000: 1.000\n" in text
    assert "  AUC of each seed 1.000, 1.000: 1.000\n" in text


def test_the_experiment_on_real_slides_compares_what_it_names(experiments, monkeypatch, tmp_path, capsys):
    real_slides = experiments["real_slides"]
    mosaics = write_mosaics(tmp_path / "mosaics")
    asked = []
    monkeypatch.setattr(real_slides, "run_command", lambda command: asked.append(command) or 0)
    numbers = ["--alpha=0.3", "--thumbnail-size=128", "--inference-patches=32", "--max-regions=32"]
    given = [str(mosaics), f"--out={tmp_path / 'out'}", *numbers, "--set", "mpp=2.0"]
    monkeypatch.setattr(sys, "argv", ["real_slides.py", *given])
    assert real_slides.main() == 0
    args = build_parser().parse_args(asked[0])
    assert (args.folds, args.no_validation, args.config) == (3, True, ["pretrained", "slides"])
    values = dict(text.split("=") for text in args.values)
    made = make_variants(args.bundle, args.variants, configs=args.config, values=values)
    settings = {}
    for variant in made:
        config = read_config(args.bundle, variant.configs, variant.values)
        keys = ("tissue_only", "num_patches", "inference_patches", "thumbnail_size", "alpha", "warmup_patches", "mpp")
        settings[variant.name] = {key: config.get_parsed_content(key) for key in keys}
        assert settings[variant.name]["tissue_only"] is True
        assert settings[variant.name]["num_patches"] == 16
        assert settings[variant.name]["thumbnail_size"] == [128, 128]
        if variant is made[0]:
            assert config.get_parsed_content("inference_sampler").max_regions == 32
    zoom, flat, random, mil = settings.values()
    assert [of["inference_patches"] for of in (zoom, flat, random)] == [32, 32, 32]
    assert (zoom["alpha"], flat["alpha"], random["alpha"], mil["alpha"]) == (0.3, 0.3, 0.0, 0.0)
    assert (zoom["warmup_patches"], flat["warmup_patches"], random["warmup_patches"]) == (64, 64, 64)
