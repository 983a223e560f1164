# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``pack`` makes one folder of a bundle that stands alone, as MONAI's model zoo takes it.

In the repository the overlays of both bundles lie beside them. A packed bundle has its own copy of them, and the paths
in its card are changed to match. Settings that the weights were trained with become the bundle's own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_jsma._io import checkpoint_file, file_sha256, write_whole
from monai_jsma.cli import Commands, add_command
from monai_jsma.cli.bundles import (
    CONFIG_FOLDERS,
    add_bundle_option,
    add_overlay_option,
    find_configs,
    load_weights,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MAX_FILE_BYTES", "add_commands", "pack_bundle"]

MAX_FILE_BYTES = 25 << 20  # what the model zoo takes as a file; larger ones are named in large_files.yml
_VARIANTS = CONFIG_FOLDERS[1]
_PARTS = ("LICENSE", "configs", "docs")  # of a bundle; all else is what runs have left in it


def add_commands(commands: Commands) -> None:
    """Add ``pack``."""
    summary = (
        "Make a folder of a bundle that stands alone, with weights if there are some, as MONAI's model zoo takes it."
    )
    parser = add_command(commands, "pack", _pack, summary=summary)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, whose name is that of the bundle")
    add_bundle_option(parser)
    text = "overlays that the weights were trained with, such as pretrained; they become the bundle's own settings"
    add_overlay_option(parser, text=text)
    parser.add_argument("--model", type=Path, metavar="FILE", help="weights, such as models/model.pt (default: none)")
    parser.add_argument(
        "--url", metavar="URL", help="where the weights can be downloaded: they are then named, not copied"
    )
    parser.add_argument(
        "--metrics", type=Path, metavar="CSV", help="metrics of these weights, such as eval/metrics.csv"
    )
    parser.add_argument("--note", metavar="TEXT", help="what a reader must know first of these weights")


def _pack(args: argparse.Namespace) -> None:
    folder = pack_bundle(
        args.bundle.resolve(),
        args.out.resolve(),
        overlays=args.config,
        model=args.model,
        url=args.url,
        metrics=args.metrics,
        note=args.note,
    )
    print(folder)


def pack_bundle(
    bundle: Path,
    folder: Path,
    *,
    overlays: Sequence[str] = (),
    model: Path | None = None,
    url: str | None = None,
    metrics: Path | None = None,
    note: str | None = None,
) -> Path:
    """Write a bundle that stands alone.

    Args:
        bundle: folder of the bundle.
        folder: folder to write, new or empty; its name is that of the packed bundle.
        overlays: names of overlays whose values become those of ``train.json`` and ``inference.json``.
        model: weights of the network that these settings describe; None: the bundle has none.
        url: where the weights can be downloaded. They are then named in ``large_files.yml``, with their checksum.
        metrics: table of metrics of the weights, a name and a value in each line.
        note: what a reader must know first; it becomes the first line of the card and of the description.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: if the bundle, an overlay, the weights or the metrics are missing.
        FileExistsError: if the folder holds something.
        ValueError: if the weights are not those of the network, or too large for the model zoo and without a URL.
    """
    from monai_jsma.networks import read_class_names

    find_configs(bundle, "train", "inference", *overlays)  # all are there before anything is written
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder.")
    _check_weights_options(model, url, metrics)

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:  # nothing half done is left behind
        draft = Path(made) / folder.name
        _copy_parts(bundle, draft)
        if overlays:
            _settle_values(draft, overlays)
        _correct_paths(draft / "docs" / "README.md")
        classes = None
        if model is not None:
            classes = read_class_names(_load_weights(draft, model))
            _add_weights(draft, model, url)
        _describe(draft, classes=classes, metrics=_read_metrics(metrics), note=note)
        if folder.is_dir():
            folder.rmdir()
        shutil.move(draft, folder)
    return folder


def _check_weights_options(model: Path | None, url: str | None, metrics: Path | None) -> None:
    if model is None:
        if url or metrics:
            raise ValueError("--url and --metrics say something of weights; name the weights with --model.")
        return
    size = Path(checkpoint_file(model)).stat().st_size
    if url is None and size > MAX_FILE_BYTES:
        raise ValueError(
            f"{model} has {size:,} bytes, and the model zoo takes files of at most {MAX_FILE_BYTES:,}; store it where "
            "it can be downloaded, and name that place with --url."
        )


def _copy_parts(bundle: Path, folder: Path) -> None:
    folder.mkdir()
    for name in _PARTS:
        if (bundle / name).is_dir():
            shutil.copytree(bundle / name, folder / name)
        else:
            shutil.copy(bundle / name, folder / name)
    for path in sorted((bundle / _VARIANTS).glob("*.json")):
        copy = folder / "configs" / path.name
        if not copy.exists():  # a bundle's own hides the common one
            shutil.copy(path, copy)


def _settle_values(folder: Path, overlays: Sequence[str]) -> None:
    """Write the values of overlays into ``train.json`` and ``inference.json``, as MONAI merges configurations."""
    from monai.bundle import ConfigParser

    configs = folder / "configs"
    files = [str(folder / file) for file in find_configs(folder, *overlays)]
    of_training = json.loads((configs / "train.json").read_text(encoding="utf-8"))
    for name in ("train", "inference"):
        path = configs / f"{name}.json"
        own = json.loads(path.read_text(encoding="utf-8"))
        merged = ConfigParser.load_config_files([str(path), *files])
        for key in list(merged):
            if key not in own and key in of_training:  # the learning rate, for one, is nothing to inference
                del merged[key]
        _write_json(path, merged)


def _correct_paths(card: Path) -> None:
    text = card.read_text(encoding="utf-8")
    text = text.replace(f"../{_VARIANTS}/", "../configs/").replace(f"{_VARIANTS}/", "configs/")
    write_whole(card, text)


# -------------------------------------------------------------------------------------------------------------- weights


def _load_weights(folder: Path, model: Path) -> nn.Module:
    """The network of the packed bundle with the weights, to see that they are its own."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"] = str(folder)
    network: nn.Module = parser.get_parsed_content("network_def")
    load_weights(network, model, bundle=folder)
    return network


def _add_weights(folder: Path, model: Path, url: str | None) -> None:
    if url is None:
        (folder / "models").mkdir()
        shutil.copy(model, folder / "models" / "model.pt")
        return
    lines = [
        "large_files:",
        '  - path: "models/model.pt"',
        f"    url: {json.dumps(url)}",
        f'    hash_val: "{file_sha256(model)}"',
        '    hash_type: "sha256"',
    ]
    write_whole(folder / "large_files.yml", "\n".join(lines) + "\n")


# ---------------------------------------------------------------------------------------------------------- description


def _read_metrics(path: Path | None) -> dict[str, float]:
    from monai_jsma.cli.train import read_metrics

    if path is None:
        return {}
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; evaluate the weights, or leave out --metrics.")
    return read_metrics(path)


def _describe(folder: Path, *, classes: Sequence[str] | None, metrics: Mapping[str, float], note: str | None) -> None:
    """Classes, metrics and note of the weights in the metadata; note and metrics in the card too."""
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    if classes:
        _name_classes(metadata, classes)
    if metrics:
        metadata["eval_metrics"] = dict(metrics)
    if note:
        metadata["description"] = f"{note} {metadata['description']}"
    _write_json(path, metadata)

    card = folder / "docs" / "README.md"
    title, rest = card.read_text(encoding="utf-8").split("\n", 1)
    added = []
    if note:
        added.append(f"\n**{note}**\n")
    if metrics:
        added.append("\nMetrics of these weights:\n\n| metric | value |\n|---|---|\n")
        added += [f"| {name} | {value:.4g} |\n" for name, value in metrics.items()]
    write_whole(card, f"{title}\n{''.join(added)}{rest}")


def _name_classes(metadata: dict[str, Any], classes: Sequence[str]) -> None:
    names = {str(label): name for label, name in enumerate(classes)}
    prediction = metadata["network_data_format"]["outputs"]["pred"]
    prediction["channel_def"] = names
    prediction["num_channels"] = len(names)
    metadata["label_classes"] = ", ".join(f"{label} {name}" for label, name in names.items())
    metadata["pred_classes"] = "probabilities of " + ", ".join(classes)


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=4, ensure_ascii=False) + "\n")
