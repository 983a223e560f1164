# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``encoders`` lists what is known of each encoder, and finds what the hub's cache has."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import constants
from places import ROOT

from monai_jsma.__main__ import main
from monai_jsma.cli.bundles import read_config
from monai_jsma.networks import ENCODERS


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of the hub, and a hub that must not be asked."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("the hub was asked"))
    return tmp_path


def put(cache, repository, name):
    """A file of a repository as the cache of the hub has it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    file = folder / "snapshots" / commit / name
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def test_all_are_listed_with_what_they_need(cache, capsys):
    put(cache, "paige-ai/Virchow2", "pytorch_model.bin")
    assert main(["encoders"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert set(ENCODERS) <= set(rows)
    assert rows["virchow2"] == ["virchow2", "2560", "224", "0.25", "0.5", "1", "2", "here", "gated", "CC-BY-NC-ND-4.0"]
    assert rows["uni2-h"] == ["uni2-h", "1536", "224", "0.5", "-", "gated", "CC-BY-NC-ND-4.0"]
    assert rows["phikon-v2"] == ["phikon-v2", "1024", "224", "0.5", "-", "-", "Owkin", "non-commercial"]
    assert "'kaiko' is kaiko-vits16" in "\n".join(lines)


def test_one_is_told_as_a_whole(cache, capsys):
    file = put(cache, "paige-ai/Virchow2", "pytorch_model.bin")
    assert main(["encoders", "virchow2"]) == 0
    text = capsys.readouterr().out
    assert f"weights    {file}" in text
    assert "accept the terms at https://huggingface.co/paige-ai/Virchow2" in text
    assert (
        "vit_huge_patch14_224 img_size=224 init_values=1e-05 mlp_ratio=5.3375 reg_tokens=4 mlp_layer=SwiGLUPacked"
        in text
    )
    assert "224 x 224 pixels of 0.25 or 0.5 or 1 or 2 um" in text
    assert "2560 numbers: class token, then mean of the patch tokens" in text
    assert "--patch_backbone virchow2 --patch_size 224" in text
    assert main(["encoders", "kaiko", "--json"]) == 0
    (card,) = json.loads(capsys.readouterr().out)
    assert (card["name"], card["weights"], card["gated"]) == ("kaiko-vits16", None, False)


def test_a_typing_slip_names_the_nearest(cache, capsys):
    assert main(["encoders", "virchow_2"]) == 1
    assert capsys.readouterr().err.startswith("error: no encoder is called 'virchow_2' (virchow2")


def test_a_bundle_takes_an_object_with_keywords():
    """Of the two encoders alone, and only with a name: other objects are of a wrong type, as before."""
    encoder = "{'name':'local-dir:/models/encoder','mlp_layer':'SwiGLUPacked','reg_tokens':4}"
    parser = read_config(ROOT / "bundles/bach", ["frozen"], {"patch_backbone": encoder})
    content = parser.get_parsed_content("patch_backbone")
    assert content == {"name": "local-dir:/models/encoder", "mlp_layer": "SwiGLUPacked", "reg_tokens": 4}
    for name, value in (("patch_backbone", "{'reg_tokens':4}"), ("dataset_dir", encoder)):
        with pytest.raises(ValueError, match=f"'{name}': expected a text"):
            read_config(ROOT / "bundles/bach", ["frozen"], {name: value})


def test_a_bundle_takes_weights_of_each_encoder():
    weights = "{'thumbnail_backbone':'imagenet','patch_backbone':'/models/encoder.pth'}"
    parser = read_config(ROOT / "bundles/bach", ["frozen"], {"weights": weights})
    expected = {"thumbnail_backbone": "imagenet", "patch_backbone": "/models/encoder.pth"}
    assert parser.get_parsed_content("weights") == expected
    with pytest.raises(ValueError, match="'weights': expected a text"):
        read_config(ROOT / "bundles/bach", ["frozen"], {"weights": "{'backbone':'imagenet'}"})
