# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``features write`` and ``features read`` with a bundle: what is written is read again, and then never encoded."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("h5py")
from feature_cases import counted
from feature_tools import read_as_trident, write_trident
from PIL import Image
from places import ROOT

from monai_jsma.__main__ import main
from monai_jsma.cli.bundles import read_config
from monai_jsma.data import PyramidBatch

timm = importlib.import_module("timm")  # only now: monai_jsma.networks makes it importable

BUNDLE = ROOT / "bundles/bach"
PATCH = 32


@pytest.fixture
def data(tmp_path):
    """Three images of two patients at 0.5 um, and the settings of a training with them."""
    random = np.random.default_rng(0)
    items = []
    for number in range(3):
        colors = random.integers(256, size=(12, 16, 3), dtype=np.uint8)
        Image.fromarray(colors.repeat(8, axis=0).repeat(8, axis=1)).save(tmp_path / f"image{number}.png")
        items.append({"image": f"image{number}.png", "label": number % 2, "mpp": 0.5})
    datalist = {"labels": {"0": "a", "1": "b"}, "training": items[:2], "validation": items[2:]}
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "encoder.pth")
    return tmp_path


def list_options(data, **changes):
    weights = json.dumps({"patch_backbone": str(data / "encoder.pth")})
    values = {
        "patch_backbone": "test_resnet",
        "weights": weights,
        "patch_size": PATCH,
        "magnifications": "[1.0, 0.5]",
        "aligned": True,
        "num_classes": 2,
        "feature_cache": data / "cache",
        **changes,
    }
    settings = [f"{name}={value}" for name, value in values.items()]
    return ["--bundle", str(BUNDLE), "--config", "attention_mil", "frozen", "--set", *settings], values


def run(data, action, folder, *options, **changes):
    arguments, _ = list_options(data, **changes)
    return main(["features", action, str(folder), str(data / "datalist.json"), *arguments, *options])


def count_encoded(data):
    """How many patches the network of a training encodes for the three images."""
    _, values = list_options(data)
    places = {"data_list_file_path": data / "datalist.json", "dataset_dir": data}
    parser = read_config(BUNDLE, ["attention_mil", "frozen"], {**values, **places})
    network = parser.get_parsed_content("network_def")
    network.load_weights(parser.get_parsed_content("weights"))
    load = parser.get_parsed_content("train#deterministic_transforms#0")
    batch = PyramidBatch(load({"image": str(data / f"image{number}.png"), "mpp": 0.5})["image"] for number in range(3))
    with counted(network) as passes, torch.inference_mode():
        network.eval()(torch.zeros(3, 3, 8, 8), batch)
    return sum(passes)


def test_what_is_written_is_read_and_never_encoded(data, capsys):
    """96 x 128 pixels are 3 x 4 patches at 0.5 um, and 2 x 2 at 1 um."""
    assert run(data, "write", data / "out") == 0
    folders = capsys.readouterr().out.split()
    assert folders == [str(data / f"out/{power}x_32px_0px_overlap/features_test_resnet") for power in (10, 20)]
    fine = data / "out/20x_32px_0px_overlap/features_test_resnet"
    features, corners, attributes = read_as_trident(fine / "image1.h5")
    assert corners.tolist() == [[32 * col, 32 * row] for row in range(3) for col in range(4)]
    assert features.shape == (12, 96)
    assert {name: attributes[name] for name in ("patch_size", "patch_size_level0", "level0_magnification")} == {
        "patch_size": 32,
        "patch_size_level0": 32,
        "level0_magnification": 20,
    }
    assert (attributes["target_magnification"], attributes["encoder"], attributes["mpp"]) == (20, "test_resnet", 0.5)
    pixels = torch.from_numpy(np.array(Image.open(data / "image1.png")))[32:64, 96:].permute(2, 0, 1)[None] / 255
    model = timm.create_model("test_resnet", features_only=True, out_indices=(-1,)).eval()
    model.load_state_dict(torch.load(data / "encoder.pth", weights_only=True), strict=False)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = model((pixels - mean) / std)[0].mean(dim=(2, 3))[0]
    np.testing.assert_allclose(features[7], expected, rtol=1e-4, atol=1e-5)

    assert count_encoded(data) == 0  # writing has filled the cache
    for file in (data / "cache").rglob("*.features"):
        file.unlink()
    assert run(data, "read", fine) == 0
    out = capsys.readouterr().out
    assert f"{data / 'image0.png'}: 12 of 16 patches, from {fine / 'image0.h5'}" in out
    assert f"36 features in {data / 'cache'}" in out
    assert count_encoded(data) == 12


def test_files_that_do_not_agree_are_named_and_the_others_taken(data, capsys):
    folder = data / "trident"
    corners = np.array([[0, 0], [32, 0]])
    write_trident(folder / "image0.h5", np.zeros((2, 96), np.float32), corners, size=PATCH, at_level_0=32)
    write_trident(folder / "image1.h5", np.zeros((2, 96), np.float32), corners, size=64, at_level_0=64)
    assert run(data, "read", folder) == 1
    out = capsys.readouterr().out
    assert f"refused: {folder / 'image0.h5'}: its features are not those of the network's f" in out
    assert f"refused: {folder / 'image1.h5'}: its patches have 64 pixels, those of the network 32" in out
    assert "no features of 1 images: image2.png" in out
    assert "0 features in" in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"feature_cache": "none", "freeze_patch_backbone": False},
            "this configuration keeps no features: add the overlay",
        ),
        ({"patch_backbone": "uni2h"}, "unknown backbone 'uni2h'"),
        ({}, r"nothing: it has no features of image0.png, image1.png"),
    ],
)
def test_wrong_input_is_one_line(data, capsys, changes, message):
    (data / "nothing").mkdir()
    assert run(data, "read", data / "nothing", **changes) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_without_h5py_the_extra_is_named(data, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert run(data, "write", data / "out") == 1
    assert capsys.readouterr().err == "error: files of features need h5py: pip install 'monai-jsma[features]'.\n"


@pytest.mark.parametrize("action", ["read", "write"])
def test_two_images_of_one_name_are_refused_first(data, capsys, action):
    """A file of features has the name of its image alone."""
    (data / "other").mkdir()
    (data / "other/image0.jpg").write_bytes((data / "image0.png").read_bytes())
    datalist = json.loads((data / "datalist.json").read_text())
    datalist["test"] = [{"image": "other/image0.jpg", "label": 0, "mpp": 0.5}]
    (data / "datalist.json").write_text(json.dumps(datalist))
    assert run(data, action, data / "out") == 1
    error = capsys.readouterr().err
    assert "image0.png and " in error
    assert "have one name, and would share a file of features: rename one" in error
    assert not (data / "out").exists()


def test_a_setting_without_a_value_is_one_clear_line(tmp_path, capsys):
    (tmp_path / "datalist.json").write_text('{"training": []}')
    command = ["features", "write", str(tmp_path / "out"), str(tmp_path / "datalist.json"), "--bundle", str(BUNDLE)]
    assert main([*command, "--set", "patch_size"]) == 1
    assert "NAME=VALUE was expected" in capsys.readouterr().err
