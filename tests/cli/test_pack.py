# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A packed bundle stands alone, and passes what MONAI's model zoo asks of a bundle."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from bundle_runs import (
    NETWORK,
    ROOT,
    VARIANTS,
    command,
    copy_bundle,
    each_bundle,
    execute,
    make_pictures,
    predicted,
    run,
)
from monai.bundle import load, verify_metadata, verify_net_in_out

from monai_jsma.__main__ import main
from monai_jsma.cli import pack
from monai_jsma.cli.pack import pack_bundle

SCHEMA = ROOT / "tests" / "samples" / "meta_schema_20240725.json"
OVERLAYS = ["demo", "small"]
TEXTURES = ["texture A", "texture B", "texture C", "texture D"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A bundle, trained and evaluated on a few images of the demo."""
    bundle = copy_bundle(tmp_path_factory.mktemp("pack"))
    (bundle / "configs" / "small.json").write_text(json.dumps(NETWORK))  # what helpers give to every run
    make_pictures(bundle / "data", 4, 2, 2)
    run(bundle, "train", "demo", epochs=1)
    run(bundle, "train", "demo", "evaluate", max_pictures=0)
    return bundle


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory) -> Path:
    """It, packed with its weights by the command."""
    folder = tmp_path_factory.mktemp("zoo") / "pathology_synthetic_attention_classification"
    options = ["--bundle", str(trained), "--config", *OVERLAYS, "--model", str(trained / "models" / "model.pt")]
    options += ["--metrics", str(trained / "eval" / "metrics.csv"), "--note", "Weights of the synthetic task."]
    assert main(["pack", str(folder), *options]) == 0
    return folder


def read_metadata(folder: Path) -> dict:
    return json.loads((folder / "configs" / "metadata.json").read_text())


def test_it_passes_the_checks_of_the_zoo(packed, tmp_path):
    metadata = read_metadata(packed)
    assert metadata["version"] in metadata["changelog"]
    assert metadata["name"]
    verify_metadata(packed / "configs" / "metadata.json", filepath=shutil.copy(SCHEMA, tmp_path / "schema.json"))
    files = {"meta_file": str(packed / "configs" / "metadata.json"), "bundle_root": str(packed)}
    verify_net_in_out("network_def", config_file=str(packed / "configs" / "inference.json"), device="cpu", **files)
    assert all(path.stat().st_size <= pack.MAX_FILE_BYTES for path in packed.rglob("*") if path.is_file())
    assert not list(packed.rglob("*.py"))


def test_it_loads_with_its_weights_alone(packed, trained):
    network = load(packed.name, bundle_dir=str(packed.parent)).eval()
    saved = torch.load(trained / "models" / "model.pt", weights_only=True)
    for name, value in network.state_dict().items():
        assert torch.equal(value, saved[name])
    assert network.class_names == TEXTURES


def test_it_predicts_as_the_bundle_it_was_made_of(packed, trained, tmp_path):
    data = {"dataset_dir": str(trained / "data"), "num_workers": 0, "max_pictures": 0}
    for folder, configs in ((packed, ("inference",)), (trained, ("inference", *OVERLAYS))):
        arguments = command("evaluating", *configs, **data, output_dir=str(tmp_path / folder.name))
        code, written = execute(arguments, folder)
        assert code == 0, written[-2000:]
    assert predicted(tmp_path / packed.name) == predicted(tmp_path / trained.name)


def test_it_trains_as_the_bundle_it_was_made_of(packed):
    overlay = json.loads((VARIANTS / "demo.json").read_text()) | NETWORK
    train = json.loads((packed / "configs" / "train.json").read_text())
    inference = json.loads((packed / "configs" / "inference.json").read_text())
    assert {name: train[name] for name in overlay} == overlay
    assert inference["patch_size"] == overlay["patch_size"]
    assert "lr" not in inference


def test_it_describes_the_weights(packed, trained):
    metadata = read_metadata(packed)
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["3"] == "texture D"
    assert metadata["pred_classes"] == "probabilities of " + ", ".join(TEXTURES)
    assert metadata["description"].startswith("Weights of the synthetic task. ")
    lines = (trained / "eval" / "metrics.csv").read_text().splitlines()
    assert metadata["eval_metrics"] == {line.split(",")[0]: float(line.split(",")[1]) for line in lines}
    card = (packed / "docs" / "README.md").read_text()
    assert card.index("**Weights of the synthetic task.**") < card.index("## Model Description")
    assert f"| val_accuracy | {metadata['eval_metrics']['val_accuracy']:.4g} |" in card


@each_bundle
def test_the_card_of_a_packed_bundle_names_files_that_are_there(shipped, tmp_path):
    folder = pack_bundle(shipped.folder, tmp_path / "packed")
    assert not (folder / "models").exists()
    assert {path.name for path in VARIANTS.iterdir()} <= {path.name for path in (folder / "configs").iterdir()}
    card = (folder / "docs" / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", card) if "://" not in link]
    assert links
    assert all((folder / "docs" / link).is_file() for link in links)
    named = re.findall(r"'((?:\.\./)?\w+/\w+\.json)'", card)
    assert named
    assert all((folder / name).is_file() for name in named)
    wanted = ["Authors", "Tags", "Model Description", "Data", "Performance", "System Configuration", "Limitations"]
    headings = [line.strip("# ") for line in card.splitlines() if re.match(r"#{2,3} ", line)]
    assert [name for name in headings if name in wanted] == wanted


def test_large_weights_are_named_by_their_address(trained, tmp_path, monkeypatch):
    model = trained / "models" / "model.pt"
    monkeypatch.setattr(pack, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ValueError, match="--url"):
        pack_bundle(trained, tmp_path / "none", overlays=OVERLAYS, model=model)
    assert not (tmp_path / "none").exists()
    folder = pack_bundle(
        trained, tmp_path / "by_url", overlays=OVERLAYS, model=model, url="https://example.org/model.pt"
    )
    (entry,) = yaml.safe_load((folder / "large_files.yml").read_text())["large_files"]
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert entry == {
        "path": "models/model.pt",
        "url": "https://example.org/model.pt",
        "hash_val": digest,
        "hash_type": "sha256",
    }
    assert not (folder / "models").exists()


def test_weights_of_another_network_are_refused(trained, tmp_path, capsys):
    model = str(trained / "models" / "model.pt")
    assert main(["pack", str(tmp_path / "packed"), "--bundle", str(trained), "--model", model]) == 1
    assert "--config" in capsys.readouterr().err
    assert not (tmp_path / "packed").exists()


def test_what_is_there_is_kept(trained, tmp_path, capsys):
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    assert main(["pack", str(tmp_path), "--bundle", str(trained)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    assert main(["pack", str(tmp_path / "new"), "--bundle", str(trained), "--url", "https://example.org"]) == 1
    assert "--model" in capsys.readouterr().err
