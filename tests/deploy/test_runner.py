# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""An exported network reads the patches that the network reads, and says the same, by every sampler."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from export_cases import ask_network, ask_runner, check_same, make_pyramid
from PIL import Image
from test_without_torch import run_without_torch
from tiny_networks import mil_net, tiny_net
from tiny_zoom import stage, zoom_net

from monai_jsma.deploy import ExportSettings, Runner
from monai_jsma.geometry import Box
from monai_jsma.networks import (
    ESTIMATORS,
    AllPatches,
    Certified,
    Confident,
    Draws,
    LeaveOneOut,
    Pathwise,
    Prefix,
    TopK,
    export_network,
)
from monai_jsma.transforms import FindTissue, LoadPyramid
from monai_jsma.zoom_geometry import TissueMap

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SAMPLERS = [
    TopK(4),
    TopK(4, normalize=False),
    AllPatches(),
    LeaveOneOut(3),
    Prefix(3),
    *(Pathwise(4, estimator=estimator) for estimator in ESTIMATORS),
    Draws(3, 4),
    Draws(Prefix(2), 3),
    Certified(),
    Certified(6, chunk=4),
    Confident(0.9),
    Confident(0.6, max_patches=5, chunk=2),
]
PATH_SAMPLERS = [
    TopK(4),
    AllPatches(),
    LeaveOneOut(3),
    Pathwise(4, estimator="with_replacement"),
    Pathwise(6, estimator="systematic", max_regions=3),
    Draws(Pathwise(3, estimator="systematic"), 2),
    Draws(3, 4),
    Certified(),
    Certified(6, chunk=4),
    Confident(0.9, max_patches=24),
    Confident(0.6, max_patches=10, chunk=3),
]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """Standardized features of length 1, of which the classifier tells classes apart."""
    network = tiny_net(feature_norm="standardized", thumbnail_norm="standardized", level_prior="balanced")
    network.train()
    for number in range(3):  # what the standardizers have seen
        images = torch.randint(256, (2, 3, 40, 33), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        network(images)
    torch.nn.init.normal_(network.classifier.weight, std=2.0)
    return network.eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory) -> Path:
    return export_network(network, tmp_path_factory.mktemp("export") / "flat", sampler=Certified())


@pytest.fixture(scope="module")
def slide_network() -> torch.nn.Module:
    """Two stages of a zoom above regions."""
    network = zoom_net(stage(64), stage(32, tissue_power=0.5), feature_norm="l2", normalization="softmax").eval()
    for conv in (*network.stages[0].attention.logits, *network.stages[1].attention.logits):
        torch.nn.init.normal_(conv.weight, std=3.0)
    torch.nn.init.normal_(network.region_network.classifier.weight, std=2.0)
    return network


@pytest.fixture(scope="module")
def exported_slide_network(slide_network, tmp_path_factory) -> Path:
    return export_network(slide_network, tmp_path_factory.mktemp("export") / "zoom", sampler=TopK(4))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_the_same_patches_label_and_certificates(network, exported, sampler):
    for number in range(6):
        pyramid = make_pyramid(number)
        outputs = ask_network(network, pyramid, sampler, seed=number)
        result = ask_runner(exported, pyramid, sampler, seed=number)
        check_same(result, outputs, ordered="systematic" not in repr(sampler))
        np.testing.assert_allclose(result.log_attention, outputs["log_attention"], atol=1e-4)


@pytest.mark.parametrize("sampler", PATH_SAMPLERS, ids=repr)
def test_the_same_paths_down_a_slide(slide_network, exported_slide_network, sampler):
    for number, size in enumerate([(150, 100), (90, 200), (40, 40)]):
        pyramid = make_pyramid(number, size=size)
        tissue = np.random.default_rng(number).random((6, 8)) > 0.4
        pyramid = pyramid.with_tissue(TissueMap(tissue, Box(0, 0, *size)))
        outputs = ask_network(slide_network, pyramid, sampler, seed=number)
        result = ask_runner(exported_slide_network, pyramid, sampler, seed=number)
        check_same(result, outputs)
        assert result.num_regions == int(outputs["num_regions"])


@pytest.mark.parametrize("orientation", [0, 5])
def test_tissue_and_orientation_are_those_of_the_pyramid(network, exported, orientation):
    tissue = TissueMap(np.eye(4, dtype=bool), Box(0, 0, 40, 48))
    pyramid = make_pyramid(3, size=(40, 48)).oriented(orientation).with_tissue(tissue)
    for sampler in (TopK(4), Confident(0.9)):
        outputs = ask_network(network, pyramid, sampler, seed=1)
        check_same(ask_runner(exported, pyramid, sampler, seed=1), outputs)


def test_a_certified_label_is_that_of_all_patches_of_the_network(network, exported):
    num_certified = 0
    for number in range(30):
        pyramid = make_pyramid(number)
        result = ask_runner(exported, pyramid, Certified(5), seed=0)
        probabilities = ask_network(network, pyramid, AllPatches(), seed=0)["logits"].softmax(0).numpy()
        assert (result.outputs["intervals"][:, 0] <= probabilities + 1e-6).all()
        assert (result.outputs["intervals"][:, 1] >= probabilities - 1e-6).all()
        if result.outputs["certified"]:
            num_certified += 1
            assert result.label == probabilities.argmax()
    assert num_certified > 3


def test_without_a_thumbnail_cells_are_drawn_equally_and_grades_are_classes(tmp_path):
    network = tiny_net(thumbnail_encoder=None, level_prior="balanced", task="ordinal").eval()
    folder = export_network(network, tmp_path / "uniform")
    assert not (folder / "attention.onnx").exists()
    for number in range(4):
        pyramid = make_pyramid(number)
        outputs = ask_network(network, pyramid, Pathwise(3), seed=0)
        check_same(Runner(folder).predict(pyramid), outputs)
    with pytest.raises(ValueError, match="Certified needs features of length 1"):
        Runner(folder, sampler={"name": "Certified"}).predict(pyramid)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (mil_net, "AttentionMIL is not exported, only JSMANet and ZoomNet are"),
        (partial(tiny_net, task="multilabel"), "a MultiLabelClassifier, and the runner knows linear ones of one label"),
        (partial(tiny_net, stain_norm="macenko"), "stain_norm 'macenko', which MONAI estimates of each image"),
    ],
)
def test_networks_that_the_runner_does_not_know_are_refused(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_network(make().eval(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_any_box_of_a_file_is_read_as_the_transforms_read_it(network, exported, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    runner = Runner(exported, sampler={"name": "TopK", "k": 3})
    for region in ({}, {"location": (11, 7), "size": (33, 41)}, {"size": (30, 20)}):
        pyramid = LoadPyramid((2.0, 1.0), 8)(tmp_path / "slide.png", mpp=1.0, **region)
        result = runner(tmp_path / "slide.png", mpp=1.0, **region)
        check_same(result, ask_network(network, pyramid, TopK(3), seed=0))
        boxes = [pyramid.box(patch.cell) for patch in result.patches]
        assert [patch.box for patch in result.patches] == boxes


def test_it_runs_where_there_is_no_torch(exported, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    command = """
import runpy
sys.argv = ["deploy", *sys.argv[1:]]
runpy.run_module("monai_jsma.deploy", run_name="__main__")
"""
    printed = run_without_torch(command, exported, tmp_path / "slide.png", "--mpp", "1.0")
    expected = Runner(exported)(tmp_path / "slide.png", mpp=1.0).as_json()
    assert json.loads(printed) == json.loads(json.dumps(expected))


def test_tissue_is_found_and_regions_are_cut_as_in_inference(network, exported, tmp_path):
    pixels = np.full((64, 96, 3), 245, np.uint8)
    pixels[8:60, 20:70] = np.random.default_rng(0).integers(60, 200, (52, 50, 3)) // (1, 3, 1)
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    folder = shutil.copytree(exported, tmp_path / "tissue")
    reading = {"default_mpp": 1.0, "tissue_only": True, "region_size": [32, 32], "region_mpp": 1.0}
    replace(ExportSettings.read(folder), sampler={"name": "TopK", "k": 3}, **reading).write(folder)
    runner = Runner(folder)
    pyramid = FindTissue()(LoadPyramid((2.0, 1.0), 8, default_mpp=1.0)(tmp_path / "slide.png"))
    check_same(runner(tmp_path / "slide.png"), ask_network(network, pyramid, TopK(3), seed=0))
    (whole,) = runner.predict_regions(tmp_path / "slide.png")  # a flat image is one region
    assert whole.as_json() == runner(tmp_path / "slide.png").as_json()


def test_seeds_are_told_apart_and_repeat(exported):
    pyramid = make_pyramid(0, size=(50, 50))
    drawing = {"name": "LeaveOneOut", "k": 6}
    read = {}
    for seed in (0, 1, 2):
        runner = Runner(exported, sampler=drawing, seed=seed)
        read[seed] = [patch.cell for patch in runner.predict(pyramid).patches]
        assert [patch.cell for patch in runner.predict(pyramid).patches] == read[seed]
    assert read[0] != read[1] != read[2]


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"name": "Best"}, "its name must be one of AllPatches, Certified"),
        ({"name": "TopK"}, "TopK has the settings k, normalize, of which it needs k"),
        ({"name": "TopK", "k": 0}, "k of TopK must be a whole number of at least 1, but is 0"),
        ({"name": "Certified", "patches": 3}, "Certified has the settings chunk, max_patches"),
        ({"name": "Pathwise", "k": 2, "estimator": "best"}, "unknown estimator 'best'"),
        ({"name": "Draws", "sampler": {"name": "TopK", "k": 2}, "repeats": 2}, "Draws repeats what LeaveOneOut"),
        ({"name": "Confident", "confidence": 1.0}, "above 0 and below 1"),
    ],
)
def test_samplers_that_are_none_are_refused(exported, sampler, message):
    with pytest.raises(ValueError, match=message):
        Runner(exported, sampler=sampler)


def test_a_folder_that_was_changed_is_refused(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; name a folder that 'python -m monai_jsma export' wrote"):
        Runner(tmp_path)
    folder = shutil.copytree(exported, tmp_path / "copy")
    graph = folder / "classifier.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="classifier.onnx: it is not the file that was exported"):
        Runner(folder)
    graph.unlink()
    with pytest.raises(FileNotFoundError, match="classifier.onnx: no such file; copy all of the folder"):
        Runner(folder)
    graph.write_bytes(content)
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**settings, "format": 2}))
    with pytest.raises(ValueError, match="settings.json: its format is 2, and this version of monai_jsma reads 1"):
        Runner(folder)


def test_weights_that_are_no_numbers_are_an_error_that_names_the_file(exported, tmp_path):
    runner = Runner(exported)
    runner._bias = runner._bias * np.nan
    with pytest.raises(ValueError, match="4.png: the network gives logits"):
        runner.predict(make_pyramid(4))
