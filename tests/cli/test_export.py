# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``export`` writes what inference of a bundle would do, and refuses what does not fit in one line."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from bundle_runs import copy_bundle
from export_cases import ask_network, check_same

from monai_jsma.__main__ import main
from monai_jsma.cli.bundles import read_config
from monai_jsma.datalists import make_dataset
from monai_jsma.deploy import ExportSettings, Runner
from monai_jsma.networks import TopK
from monai_jsma.transforms import LoadPyramid

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle with weights of the demo's network and a datalist."""
    bundle = copy_bundle(tmp_path_factory.mktemp("export"))
    make_dataset(bundle / "data", num_train=4, num_validation=1, num_test=2)
    parser = read_config(bundle, ["demo"], {"bundle_root": bundle}, base="inference")
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    (bundle / "models").mkdir()
    torch.save({"model": network.state_dict()}, bundle / "models" / "model.pt")
    return bundle, network.eval()


def test_a_trained_bundle_is_exported(bundle, tmp_path, capsys):
    folder, network = bundle
    out = tmp_path / "exported"
    command = ["export", str(folder / "models" / "model.pt"), str(out), "--bundle", str(folder), "--config", "demo"]
    assert main([*command, "--set", "inference_patches=3", "seed=5"]) == 0
    printed = capsys.readouterr().out
    assert "classifier: ONNX Runtime differs from PyTorch by " in printed
    assert printed.strip().endswith(str(out))
    settings = ExportSettings.read(out)
    assert (settings.sampler, settings.seed) == ({"name": "TopK", "k": 3, "normalize": True}, 5)
    assert (settings.region_size, settings.region_mpp, settings.default_mpp) == ([1536, 2048], 0.5, 0.5)
    assert settings.class_names == network.class_names is not None
    assert json.loads((out / "metadata.json").read_text())["name"]

    runner = Runner(out)
    pictures = sorted((folder / "data").rglob("*.png"))
    assert pictures
    for picture in pictures:
        pyramid = LoadPyramid(network.magnifications, 32, default_mpp=0.5)(picture)
        outputs = ask_network(network, pyramid, TopK(3), seed=5)
        (result,) = runner.predict_regions(picture)
        check_same(result, outputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pt", "out"], "missing.pt: no such file; train first"),
        (["MODEL", "out", "--config", "demo", "--set", "patch_size=16"], "does not fit the network of bach"),
        (["MODEL", "FULL", "--config", "demo"], "is not empty; name a new folder"),
        (["MODEL", "out", "--config", "demo", "attention_mil"], "bach"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(bundle, tmp_path, monkeypatch, capsys, arguments, message):
    folder, _ = bundle
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    names = {"MODEL": str(folder / "models" / "model.pt"), "FULL": "full"}
    command = [names.get(argument, argument) for argument in arguments]
    assert main(["export", *command, "--bundle", str(folder)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_told_with_the_way_out(bundle, tmp_path, monkeypatch, capsys):
    folder, _ = bundle
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    command = ["export", str(folder / "models" / "model.pt"), str(tmp_path / "out"), "--bundle", str(folder)]
    assert main([*command, "--config", "demo"]) == 1
    message = "out: it cannot be written without onnxscript; pip install 'monai-jsma[export]'."
    assert message in capsys.readouterr().err
