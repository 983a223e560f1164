# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The bundles as they lie on disk: complete, true to its schema, to the paper, to its documents and to itself."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import monai
import numpy as np
import pytest
from bundle_runs import (
    BUNDLES,
    OUTPUTS,
    ROOT,
    SMALL_PATCHES,
    VARIANTS,
    Shipped,
    command,
    copy_bundle,
    each_bundle,
    execute,
    make_pictures,
    make_slides,
    model,
    workflow,
)
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out
from monai.bundle.config_item import ComponentLocator
from PIL import Image

import monai_jsma

SCHEMA, SCHEMA_MD5 = ROOT / "tests" / "samples" / "meta_schema_20240725.json", "06954cad2cc5d3784e72077ac76f0fc8"
FOLDERS = [shipped.folder for shipped in BUNDLES.values()]
FILES = [p for f in FOLDERS for p in f.rglob("*") if p.is_file() and p.relative_to(f).parts[0] not in OUTPUTS]
ROOMS = (
    "data",
    "datalists",
    "engines",
    "geometry",
    "handlers",
    "inferers",
    "losses",
    "metrics",
    "networks",
    "predictions",
    "slides",
    "transforms",
    "visualize",
)


@each_bundle
def test_what_a_bundle_needs_is_there(shipped: Shipped):
    names = {str(p.relative_to(shipped.folder)) for p in FILES if p.is_relative_to(shipped.folder)}
    configs = ["train", "evaluate", "inference", "multi_gpu_train", "multi_gpu_inference", "metadata"]
    configs += ["auto_magnifications"]  # its picture size is the data set's own
    wanted = {"LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"}
    assert names == wanted | {f"configs/{name}.json" for name in configs}  # and no Python
    assert all(p.stat().st_size < 1e6 for p in FILES)
    assert (shipped.folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_variants_are_written_once():
    names = {path.name for path in VARIANTS.iterdir()}
    controls = [
        "single_magnification",
        "all_patches",
        "attention_mil",
        "thumbnail_only",
        "whole_image",
        "mean_features",
    ]
    draws = ["random_patches", "balanced_random_patches", "draws"]
    settings = ["aligned", "demo", "frozen", "one_place", "paper", "pretrained", "tissue_only", "zoom"]
    tasks = ["multilabel", "ordinal"]
    assert names == {f"{name}.json" for name in [*controls, *draws, *settings, *tasks]}
    for folder in FOLDERS:
        assert not names & {path.name for path in (folder / "configs").iterdir()}  # a bundle's own would hide them


@pytest.mark.parametrize(
    "path", [*FILES, *sorted(VARIANTS.iterdir())], ids=lambda p: str(p.relative_to(ROOT / "bundles"))
)
def test_nothing_names_a_machine_or_a_person(path):
    found = re.findall(
        r"(?<![\w/])(?<!\.\.)/(?!path/to/)\w[\w.-]*/[\w./-]*|[A-Z]:\\|[\w.]+@[\w-]+\.\w+", path.read_text()
    )
    assert not [text for text in found if not text.startswith("//")]


@each_bundle
def test_metadata_fits_the_schema(shipped: Shipped, tmp_path):
    assert hashlib.md5(SCHEMA.read_bytes()).hexdigest() == SCHEMA_MD5
    schema = shutil.copy(SCHEMA, tmp_path / "schema.json")  # a file that is there is not downloaded
    verify_metadata(shipped.folder / "configs" / "metadata.json", filepath=schema, hash_val=SCHEMA_MD5, hash_type="md5")
    broken = tmp_path / "metadata.json"
    broken.write_text(json.dumps({k: v for k, v in shipped.metadata.items() if k != "required_packages_version"}))
    with pytest.raises(ValueError, match="required_packages_version"):
        verify_metadata(broken, filepath=schema, hash_val=SCHEMA_MD5, hash_type="md5")


@each_bundle
def test_versions_are_those_that_are_tested(shipped: Shipped):
    metadata = shipped.metadata
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert metadata["version"] in metadata["changelog"]
    assert metadata["monai_version"] == pins["monai"] == monai.__version__
    assert metadata["pytorch_version"] == pins["torch"]
    assert metadata["numpy_version"] == pins["numpy"]
    required = dict(metadata["required_packages_version"])
    assert required.pop("monai-jsma") == monai_jsma.__version__
    assert required == {name: pins[name] for name in required}


@each_bundle
def test_classes_are_in_the_order_of_their_labels(shipped: Shipped):
    metadata, names = shipped.metadata, {str(i): name for i, name in enumerate(shipped.classes)}
    outputs = metadata["network_data_format"]["outputs"]["pred"]
    assert outputs["channel_def"] == names
    train, inference = (shipped.configs[name]["num_classes"] for name in ("train", "inference"))
    assert outputs["num_channels"] == train == inference == len(names)
    order = ", ".join(f"{i} {name}" for i, name in names.items())
    assert metadata["label_classes"] == order
    assert metadata["pred_classes"] == "probabilities of " + ", ".join(shipped.classes)
    assert f"Labels: {order}." in shipped.card


@pytest.mark.parametrize(
    ("name", "config", "shape"),
    [
        ("bach", "train", None),
        ("bach", "inference", None),
        ("bach", "train", [2048, 1536]),
        ("bach", "inference", [700, 1100]),
        ("tcga_prad", "train", None),
        ("tcga_prad", "inference", [700, 1100]),
    ],
)
def test_network_fits_the_metadata(name, config, shape):
    shipped = BUNDLES[name]
    key = "_meta_#network_data_format#inputs#image#spatial_shape"
    assert shipped.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == shipped.size
    overrides = {} if shape is None else {key: shape}
    configs = shipped.folder / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / f"{config}.json")}
    verify_net_in_out("network_def", **files, device="cpu", **overrides)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A copy of the bundle with small pictures as its data."""
    copy = copy_bundle(tmp_path_factory.mktemp("bundle"))
    make_pictures(copy / "data", 4, 4, 4)
    return copy


@pytest.mark.parametrize(
    ("configs", "kind"),
    [
        (("train", "demo"), "train"),
        (("train", "demo", "evaluate"), "train"),
        (("train", "demo", "single_magnification"), "train"),
        (("inference", "demo"), "infer"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else value,
)
def test_monai_finds_all_that_it_looks_for(bundle, configs, kind):
    assert workflow(bundle, *configs, workflow_type=kind).check_properties() == []


def test_monai_finds_all_of_the_bundle_for_slides(tmp_path):
    bundle = copy_bundle(tmp_path, "tcga_prad")
    make_slides(bundle / "data", training=1, validation=1, test=1)
    for configs in (("train",), ("train", "evaluate"), ("train", "single_magnification"), ("inference",)):
        kind = "infer" if configs == ("inference",) else "train"
        made = workflow(bundle, *configs, workflow_type=kind, **SMALL_PATCHES)
        assert made.check_properties() == []
        one = "single_magnification" in configs  # the paper's best one
        assert [m.name for m in made.network_def.magnifications] == (["50X"] if one else ["25X", "50X", "100X"])


def test_the_overlay_of_one_magnification(bundle):
    made = workflow(bundle, "train", "demo", "single_magnification")
    pyramid = made.train_dataset[0]["pyramid"]
    assert [m.mpp for m in made.network_def.magnifications] == [1.0]
    assert pyramid.geometry.names == ("100X",)
    other = workflow(bundle, "train", "demo", "single_magnification", single_magnification=2.0)
    assert other.train_dataset[0]["pyramid"].geometry.names == ("50X",)


def test_components_resolve_by_short_name_and_by_full_path():
    wanted = {}
    for room in ROOMS:
        module = import_module(f"monai_jsma.{room}")
        wanted |= {(room, name): getattr(module, name) for name in module.__all__}
    wanted = {k: v for k, v in wanted.items() if inspect.isclass(v) or inspect.isfunction(v)}
    assert len(wanted) > 60
    short = {f"short_{name}": {"_target_": name, "_mode_": "callable"} for _, name in wanted}
    full = {f"{r}_{n}": {"_target_": f"monai_jsma.{r}.{n}", "_mode_": "callable"} for r, n in wanted}
    parser = ConfigParser({"imports": ["$import monai_jsma"], **short, **full})
    for (room, name), component in wanted.items():
        assert parser.get_parsed_content(f"{room}_{name}") is component
        assert parser.get_parsed_content(f"short_{name}") is component


def test_no_name_is_also_a_name_of_monais():
    """MONAI searches all modules whose name begins with monai: a name that is there twice is ambiguous for both.

    Private names and those of the commands are no components.
    """
    locator = ComponentLocator()
    rooms = [n for n in sys.modules if n.startswith("monai_jsma.") and ".cli" not in n and "__main__" not in n]
    for module in [sys.modules[n] for n in rooms]:
        for name, value in vars(module).items():
            if name.startswith("_"):
                continue
            if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__:
                assert locator.get_component_module_name(name) == module.__name__


def test_trains(tmp_path):
    """The command of the README as it stands, on pictures as large as BACH's; only ImageNet weights are not fetched."""
    bundle = copy_bundle(tmp_path)
    pictures = tmp_path / "ICIAR2018_BACH_Challenge"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    sides = {"training": [], "validation": []}
    for i, side in enumerate(("training", "training", "validation")):
        noise = Image.fromarray(rng.integers(256, size=(48, 64, 3), dtype=np.uint8))
        noise.resize((2048, 1536)).save(pictures / f"{i}.tif")
        sides[side].append({"image": f"{i}.tif", "label": i})
    (pictures / "datalist.json").write_text(json.dumps(sides))
    options = {"dataset_dir": pictures, "weights": None, "epochs": 1, "batch_size": 2, "num_workers": 1}
    arguments = command("training", "train", fresh=True, **options)
    code, written = execute(arguments, bundle)
    assert code == 0, written[-3000:]
    assert "val_accuracy" in written
    state = model(bundle)
    assert any(key.startswith("patch_encoder.backbone.model") for key in state)
    assert state["classifier.weight"].shape == (4, 2048)
    assert (bundle / "runs").is_dir()
    shutil.rmtree(bundle / "models")  # three quarters of a gigabyte
