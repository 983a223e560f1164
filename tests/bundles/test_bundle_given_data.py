# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``dataset#data`` on the command line, as MONAI's zoo overrides it: no datalist is needed, and none is named."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
from bundle_runs import (
    TINY,
    VARIANTS,
    causes,
    command,
    copy_bundle,
    execute,
    items,
    make_pictures,
    predicted,
    run,
    workflow,
)

from monai_jsma.datalists import Datalist, load_datalist, make_items
from monai_jsma.datalists.tissue import whole_slide_items


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A trained bundle."""
    bundle = copy_bundle(tmp_path_factory.mktemp("given"))
    make_pictures(bundle / "data", 4, 2, 2)
    run(bundle, "train", "demo", epochs=1)
    return bundle


@pytest.fixture
def bare(trained):
    """The same without its datalist, and its items with whole paths."""
    path = trained / "data" / "datalist.json"
    given = {}
    for split in ("training", "validation", "test"):
        given[split] = [
            {"image": str(trained / "data" / item["image"]), "label": item["label"]} for item in items(trained, split)
        ]
    hidden = path.rename(path.with_suffix(".hidden"))
    yield trained, given
    hidden.rename(path)


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("region_size", [[1536, 2048], None])
def test_inference(bare, tmp_path, region_size):
    bundle, given = bare
    options = {"output_dir": str(tmp_path / "out"), "workflow_type": "infer", "region_size": region_size}
    run(bundle, "inference", "demo", **options, **{"dataset#data": given["test"]})
    assert list(predicted(tmp_path / "out")) == [item["image"] for item in given["test"]]
    assert {record["run"]["datalist"] for record in records(tmp_path / "out")} == {None}


def test_inference_on_the_command_line(bare, tmp_path):
    """Paths will do."""
    bundle, given = bare
    path = given["test"][0]["image"]
    network = {name: TINY[name] for name in ("num_workers", "batch_size", "num_patches", "max_pictures")}
    overlay = {"dataset#data": f"['{path}']".replace(" ", ""), "output_dir": tmp_path / "out"}
    demo = json.loads((VARIANTS / "demo.json").read_text())
    network |= {name: demo[name] for name in ("mpp", "thumbnail_size", "patch_size")}
    (bundle / "configs" / "tiny.json").write_text(
        json.dumps({"thumbnail_backbone": TINY["thumbnail_backbone"], "patch_backbone": TINY["patch_backbone"]})
    )
    code, written = execute(command("evaluating", "inference", "tiny", **network, **overlay), bundle)
    assert code == 0, written[-3000:]
    assert list(predicted(tmp_path / "out")) == [path]


def test_a_datalist_beside_it_is_not_said_to_be_the_source(trained, tmp_path):
    """Its checksum in the records would claim what is not so."""
    path = str(trained / "data" / items(trained, "test")[0]["image"])
    options = {"output_dir": str(tmp_path / "given"), "workflow_type": "infer"}
    run(trained, "inference", "demo", **options, **{"dataset#data": [{"image": path}]})
    assert records(tmp_path / "given")[0]["run"]["datalist"] is None
    run(trained, "inference", "demo", **{**options, "output_dir": str(tmp_path / "usual")})
    assert records(tmp_path / "usual")[0]["run"]["datalist"] is not None


def test_evaluation(bare, tmp_path):
    bundle, given = bare
    options = {"output_dir": str(tmp_path / "out"), "validate#dataset#data": given["validation"]}
    run(bundle, "train", "demo", "evaluate", **options)
    assert list(predicted(tmp_path / "out")) == [item["image"] for item in given["validation"]]
    assert (tmp_path / "out" / "metrics.csv").is_file()


def test_training(bare, tmp_path):
    bundle, given = bare
    options = {"train#dataset#data": given["training"], "validate#dataset#data": given["validation"]}
    made = run(bundle, "train", "demo", epochs=1, ckpt_dir=str(tmp_path / "models"), **options)
    assert made.trainer.state.iteration == 1
    assert (tmp_path / "models" / "model.pt").is_file()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a.svs", "a list of items such as .* is needed, but got 'a.svs'"),
        ({"image": "a.svs"}, "a list of items such as .* is needed, but got {'image': 'a.svs'}"),
    ],
)
@pytest.mark.parametrize("region_size", [[64, 64], None])
def test_one_item_that_is_no_list(trained, data, message, region_size):
    given = {"dataset#data": data, "region_size": region_size}
    made = workflow(trained, "inference", "demo", workflow_type="infer", **given)
    with pytest.raises(Exception) as e:  # noqa: PT011 - MONAI wraps it
        made.run()
    assert any(re.search(message, str(cause)) for cause in causes(e.value))


def test_items_of_paths():
    path = Path("b.svs")
    assert make_items(["a.svs", path, {"image": path, "label": 1}]) == [
        {"image": "a.svs"},
        {"image": "b.svs"},
        {"image": "b.svs", "label": 1},
    ]
    with pytest.raises(ValueError, match="item 1 is 3: give a path"):
        make_items(["a.svs", 3])
    with pytest.raises(ValueError, match="item 0 is {'path': 'a.svs'}: give a path, or a mapping"):
        make_items([{"path": "a.svs"}])
    with pytest.raises(ValueError, match="the list of items is empty"):
        make_items([])
    with pytest.raises(ValueError, match=r"a list of items .* but got 'a.svs'"):
        whole_slide_items("a.svs", (64, 64), 1.0)


def test_a_split_knows_its_file(trained):
    path = trained / "data" / "datalist.json"
    split = load_datalist(path, "test")
    assert isinstance(split, Datalist)
    copy = pickle.loads(pickle.dumps(split))
    assert (copy, copy.path) == (split, str(path))
