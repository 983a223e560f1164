# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The bundles predict: killed in the middle and run again, on whole slides, and on files of which some fail."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_runs import (
    NETWORK,
    SMALL_PATCHES,
    causes,
    command,
    copy_bundle,
    execute,
    items,
    make_pictures,
    make_slides,
    rows,
    run,
)
from slide_files import levels_of, picture, write_pyramid

from monai_jsma.__main__ import main
from monai_jsma.predictions.records import read_records

KILL: dict[str, Any] = {
    "+imports": ["$import os", "$import signal", "$import ignite"],
    "second_iteration": "$ignite.engine.Events.ITERATION_COMPLETED(once=2)",
}
CALL = "$@{}.add_event_handler(@second_iteration, lambda: os.kill(os.getpid(), signal.SIGKILL))"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A bundle of BACH after one epoch, with 7 pictures to validate on, and overlays that kill what is run."""
    bundle = copy_bundle(tmp_path_factory.mktemp("trained"))
    make_pictures(bundle / "data", 4, 7, 1)
    run(bundle, "train", "demo", epochs=1)
    for name, engine in (("evaluate", "validate#evaluator"), ("inference", "evaluator")):
        (bundle / "configs" / f"kill_{name}.json").write_text(json.dumps(KILL | {"+initialize": [CALL.format(engine)]}))
    return bundle


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("configs", [("train", "demo", "evaluate"), ("inference", "demo")], ids=lambda c: c[-1])
def test_a_killed_run_goes_on(trained, configs):
    """To the bytes of one that was not killed, with its pictures and its metrics."""
    kind = "inference" if "inference" in configs else "evaluate"
    options = {**NETWORK, "batch_size": 3, "num_workers": 1, "max_pictures": 5}
    if kind == "inference":
        options |= {"workflow_type": "infer", "test_list": "validation"}
    whole, out = f"whole_{kind}", f"killed_{kind}"
    code, written = execute(command("evaluating", *configs, **options, output_dir=whole), trained)
    assert code == 0, written[-3000:]
    code, written = execute(command("evaluating", *configs, f"kill_{kind}", **options, output_dir=out), trained)
    assert code == -signal.SIGKILL, written[-3000:]
    part = trained / out / "predictions.jsonl.part"
    begun = part.read_bytes()
    assert begun.count(b"\n") == 6
    assert [path.name for path in (trained / out).glob("*.*")] == [part.name]
    code, written = execute(command("evaluating", *configs, **options, output_dir=out), trained)
    assert code == 0, written[-3000:]
    left = {path.name for path in (trained / out).iterdir()}
    assert left == {path.name for path in (trained / whole).iterdir()}
    for name in ("predictions.jsonl", "predictions.csv", "slides.csv"):
        assert (trained / out / name).read_bytes() == (trained / whole / name).read_bytes()
    assert (trained / out / "predictions.jsonl").read_bytes().startswith(begun)
    drawn = [{path.name for path in (trained / folder / "attention").iterdir()} for folder in (whole, out)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 5
    if kind == "evaluate":
        metrics, expected = (rows(trained / folder / "metrics.csv") for folder in (out, whole))
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(value, abs=1e-5), name


def test_repeated_draws(trained, tmp_path):
    """Evaluation and inference draw the same, whatever the batches; pictures and report need the records alone."""
    options = {"inference_sampler": "$monai_jsma.networks.Draws(@sampler, 3)", "max_pictures": 0}
    run(trained, "train", "demo", "evaluate", batch_size=3, output_dir=str(tmp_path / "eval"), **options)
    options |= {"workflow_type": "infer", "test_list": "validation"}
    run(trained, "inference", "demo", batch_size=2, output_dir=str(tmp_path / "infer"), **options)
    one, two = (read_records(tmp_path / name / "predictions.jsonl") for name in ("eval", "infer"))
    assert len(one) == 7
    for record, other in zip(one, two, strict=True):
        assert (record.key, record.draws) == (other.key, 3)
        assert record.run["settings"]["sampler"].startswith("Draws(")
        assert record.run["settings"]["sampler"] == other.run["settings"]["sampler"]
        assert record.cells.tolist() == other.cells.tolist()
        np.testing.assert_allclose(record.draw_probabilities, other.draw_probabilities, atol=1e-6)
        np.testing.assert_allclose(np.mean(record.draw_probabilities, axis=0), record.probabilities, atol=1e-6)
    assert max(record.mutual_information for record in one) > 0
    written = str(tmp_path / "eval" / "predictions.jsonl")
    assert main(["draw", written, "--output", str(tmp_path / "drawn")]) == 0
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 7
    assert main(["report", written, "--output", str(tmp_path / "report"), "--resamples", "5"]) == 0
    (found,) = json.loads((tmp_path / "report" / "report.json").read_text())["runs"]
    assert "mutual_information" in found["scored"]["selective"]["orders"]


def test_stopping_at_a_confidence(trained, tmp_path):
    """Evaluation and inference read the same patches, whatever the batches, and say how sure the label is."""
    options = {"inference_sampler": "$monai_jsma.networks.Confident(0.2, max_patches=30)", "max_pictures": 0}
    run(trained, "train", "demo", "evaluate", batch_size=3, output_dir=str(tmp_path / "eval"), **options)
    options |= {"workflow_type": "infer", "test_list": "validation"}
    run(trained, "inference", "demo", batch_size=2, output_dir=str(tmp_path / "infer"), **options)
    one, two = (read_records(tmp_path / name / "predictions.jsonl") for name in ("eval", "infer"))
    for record, other in zip(one, two, strict=True):
        assert record.run["settings"]["sampler"] == "Confident(confidence=0.2, max_patches=30, chunk=1)"
        assert record.cells.tolist() == other.cells.tolist()
        assert record.confidence == pytest.approx(other.confidence, abs=1e-5)
        assert record.certified == (record.confidence >= 0.2)
        assert record.patches_read <= 30
    metrics = rows(tmp_path / "eval" / "metrics.csv")
    assert metrics["patches_confidence"][-1] == pytest.approx(np.mean([record.confidence for record in one]), abs=1e-5)
    assert metrics["patches_certified"][-1] == pytest.approx(np.mean([record.certified for record in one]), abs=1e-5)
    written = str(tmp_path / "eval" / "predictions.jsonl")
    assert main(["report", written, "--output", str(tmp_path / "report"), "--resamples", "5"]) == 0
    (found,) = json.loads((tmp_path / "report" / "report.json").read_text())["runs"]
    assert found["patches"]["certified"] == sum(record.certified for record in one)


@pytest.fixture(scope="module")
def grading(tmp_path_factory) -> Path:
    """A bundle of TCGA-PRAD after one epoch; its ``slides`` hold tissue at a known place, none, and no slide at all."""
    bundle = copy_bundle(tmp_path_factory.mktemp("grading"), "tcga_prad")
    make_slides(bundle / "data", training=1, validation=1)
    run(bundle, "train", epochs=1, **SMALL_PATCHES)
    glass = np.full((1024, 1536, 3), 244, np.uint8)
    tissue = glass.copy()
    tissue[256:768, 512:1024] = picture(512, 512) // 2 + np.array([110, 40, 100], np.uint8)
    folder = bundle / "slides"
    folder.mkdir()
    for name, pixels in (("tissue.svs", tissue), ("blank.svs", glass)):
        write_pyramid(folder / name, levels_of(pixels, (4,)), compression="jpeg", aperio_mpp=0.25)
    (folder / "text.svs").write_text("no slide at all")
    return bundle


SMALL = {**NETWORK, **SMALL_PATCHES, "num_workers": 0, "region_size": [64, 64], "max_pictures": 1}


def infer(bundle: Path, out: str, *names: str, **options: Any) -> None:
    """Inference on files of ``slides``, in this process."""
    data = [{"image": str(bundle / "slides" / name)} for name in names]
    folder = str(bundle / out)
    run(bundle, "inference", workflow_type="infer", data=data, output_dir=folder, **SMALL | options)


def test_a_whole_slide(grading, caplog):
    """Regions of 64 x 64 pixels of 1 um are 256 x 256 at 0.25: four cover the tissue; a blank slide is told apart."""
    caplog.set_level("INFO")
    infer(grading, "whole", "tissue.svs", "blank.svs")
    records = read_records(grading / "whole" / "predictions.jsonl")
    assert {record.size for record in records} == {(256, 256)}
    covered = np.zeros((1024, 1536), bool)
    for record in records:
        row, col = record.location
        covered[row : row + 256, col : col + 256] = True
    assert covered[264:760, 520:1016].all()
    assert covered.mean() < 2.3 * (512 * 512) / covered.size
    slide, blank = table(grading / "whole" / "slides.csv")
    assert (Path(slide["file"]).name, slide["status"], slide["regions"]) == ("tissue.svs", "ok", str(len(records)))
    assert (Path(blank["file"]).name, blank["status"], blank["regions"]) == ("blank.svs", "no tissue", "0")
    mean = np.mean([record.probabilities for record in records], axis=0)
    found = [float(value) for key, value in slide.items() if key.startswith("probability_")]
    np.testing.assert_allclose(found, mean, atol=1e-6)
    assert slide["prediction"] == ["benign", "Gleason 3", "Gleason 4/5"][int(mean.argmax())]
    assert len(list((grading / "whole" / "attention").glob("*.png"))) == 1
    logged = re.findall(r"(patches_read|attention_share_\w+): (\S+)", caplog.text)  # without labels too
    shares = [float(value) for name, value in logged if name.startswith("attention")]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert float(dict(logged)["patches_read"]) == np.mean([record.patches_read for record in records])
    infer(grading, "field", "tissue.svs", region_size=None)
    (record,) = read_records(grading / "field" / "predictions.jsonl")
    assert (record.location, record.size) == ((0, 0), (1024, 1536))


def test_no_tissue_is_no_success(grading):
    with pytest.raises(RuntimeError) as raised:
        infer(grading, "blank", "blank.svs")
    told = f"nothing to predict: no tissue in any slide; see {grading / 'blank' / 'slides.csv'}."
    assert told in [str(error) for error in causes(raised.value)]
    assert [row["status"] for row in table(grading / "blank" / "slides.csv")] == ["no tissue"]


def test_a_file_that_fails_is_told_by_the_exit_code(grading):
    """As the card says it: files by their names alone."""
    data = str([{"image": "slides/text.svs"}, {"image": "slides/tissue.svs"}])
    arguments = command("evaluating", "inference", workflow_type="infer", data=data, output_dir="failing", **SMALL)
    code, written = execute(arguments, grading)
    assert code == 1, written[-3000:]
    records = read_records(grading / "failing" / "predictions.jsonl")
    assert f"1 of {len(records) + 1} regions failed: see failing/failed.csv" in written
    (failed,) = table(grading / "failing" / "failed.csv")
    assert failed["file"] == "slides/text.svs"
    assert [row["status"] for row in table(grading / "failing" / "slides.csv")] == ["ok", "failed"]


def test_evaluation_goes_on_after_a_damaged_region(grading, tmp_path):
    """The metrics are of the regions that could be predicted."""
    bundle = Path(shutil.copytree(grading, tmp_path / "tcga_prad"))
    path = bundle / "data" / "datalist.json"
    content = json.loads(path.read_text())
    (bundle / "data" / "text.svs").write_text("no slide")
    content["validation"].insert(1, {**content["validation"][0], "image": "text.svs", "patient": "T"})
    path.write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as raised:
        run(bundle, "train", "evaluate", **SMALL_PATCHES)
    told = f"1 of 4 regions failed: see {bundle / 'eval' / 'failed.csv'}"
    assert any(str(error).startswith(told) for error in causes(raised.value))
    records = read_records(bundle / "eval" / "predictions.jsonl")
    labels = [item["label"] for item in items(bundle, "validation") if item["image"] != "text.svs"]
    assert [record.label for record in records] == labels
    accuracy = np.mean([record.prediction == record.label for record in records])
    assert rows(bundle / "eval" / "metrics.csv")["val_accuracy"] == [pytest.approx(accuracy)]
