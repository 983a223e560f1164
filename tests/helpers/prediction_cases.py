# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Predictions of tiny slides by a tiny network, and what is said of them by hand."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.metrics import Accuracy
from monai.data import DataLoader
from monai.handlers import from_engine
from monai.transforms import Activationsd, Compose, SelectItemsd
from slide_files import levels_of, overwrite, picture, tile_range, write_pyramid

from monai_jsma.data import PredictionDataset, PyramidBatch, collate_readable
from monai_jsma.engines import JSMAPredictor
from monai_jsma.handlers.prediction_saver import PredictionSaver
from monai_jsma.inferers import JSMAInferer
from monai_jsma.metrics import AttentionShare, PatchesRead
from monai_jsma.networks import AllPatches
from monai_jsma.transforms import LoadPyramidd, PyramidThumbnaild

CLASSES = ["benign", "tumour, viable", "necrosis"]
VIEW = Compose([LoadPyramidd("image", (2.0, 1.0), patch_size=8), PyramidThumbnaild("image", (16, 16))])
NAMES = ("50X", "100X")
ALL = JSMAInferer(AllPatches())

WEIGHTS = b"\x80weights"  # begins as a checkpoint of PyTorch before 1.6


def make_items(folder: Path) -> list[dict[str, Any]]:
    """Two regions of each of three slides of 64 x 64 pixels; the thumbnail of a region is read from the second page."""
    found = []
    for i in range(3):
        pixels = picture(64, 64, seed=i)
        path = write_pyramid(folder / f"{i}.tif", levels_of(pixels, (2,)), tile=(16, 16), compression="zlib", mpp=1.0)
        regions: list[dict[str, Any]] = [{"location": [0, 0]}, {"location": [32, 32]}]
        found += [{"image": path, "size": [32, 32], "label": i, "patient": f"P{i}", **region} for region in regions]
    return found


def spoil(items: list) -> list[dict[str, Any]]:
    """Items that fail when opened, in the thumbnail and in one patch, among the others; the others."""
    folder = Path(items[0]["image"]).parent
    (folder / "text.svs").write_text("no slide at all")
    bad = [{"image": str(folder / "text.svs"), "label": 0}]
    for name, page in (("thumbnail", 1), ("patch", 0)):
        path = write_pyramid(
            folder / f"{name}.tif", levels_of(picture(64, 64, 9), (2,)), tile=(16, 16), compression="zlib", mpp=1.0
        )
        begin, size = tile_range(path, page, 0)
        overwrite(path, begin, bytes(size))
        bad.append({"image": path, "label": 1, "location": [0, 0], "size": [32, 32]})
    sound = [{**bad[2], "location": [32, 32]}]  # of the slide with a damaged tile elsewhere
    items[:] = [bad[0], items[0], bad[1], items[1], items[2], bad[2], *items[3:], *sound]
    return [item for item in items if item not in bad]


def predict(
    folder: Path,
    items: list,
    net: Any,
    *,
    workers: int = 0,
    view: Any = VIEW,
    inferer: Any = ALL,
    handlers: Sequence[Any] = (),
    **options: Any,
) -> dict:
    """Predict in batches of four, by default from all patches; the metrics."""
    (folder.parent / "model.pt").write_bytes(options.pop("weights", WEIGHTS))
    saver = PredictionSaver(
        folder, items, class_names=CLASSES, model=folder.parent / "model.pt", **{"seed": 7, **options}
    )
    labelled = all("label" in item for item in items)
    keys = ["image", "pyramid", *(["label"] if labelled else [])]
    view = Compose([view, SelectItemsd(keys)])
    loader = DataLoader(
        PredictionDataset(items, view, saver.recorded), batch_size=4, num_workers=workers, collate_fn=collate_readable
    )
    accuracy = {"accuracy": Accuracy(from_engine(["pred", "label"]))} if labelled else None
    engine = JSMAPredictor(
        torch.device("cpu"),
        loader,
        net,
        inferer=inferer,
        postprocessing=Activationsd("pred", softmax=True),
        key_val_metric=accuracy,
        additional_metrics={"attention": AttentionShare(), "patches": PatchesRead()},
        val_handlers=[*handlers, saver],
    )
    engine.run()
    return engine.state.metrics


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_hand(net: Any, item: dict) -> tuple[np.ndarray, list[float]]:
    """Probabilities and shares of the attention of one region."""
    loaded = VIEW(item)
    pyramids = PyramidBatch([loaded["pyramid"]])
    with torch.no_grad():
        output = net(loaded["image"].as_tensor()[None], pyramids, return_attention=True, sampler=AllPatches())
    first = pyramids[0].geometry.offsets[1]
    attention = output["attention"][0]
    return output["logits"][0].softmax(0).numpy(), [float(attention[:first].sum()), float(attention[first:].sum())]


def stopped(folder: Path, whole: bytes, lines: int) -> None:
    """A folder as a kill leaves it: so many lines, and half of the next."""
    folder.mkdir()
    kept = whole.splitlines(keepends=True)
    (folder / "predictions.jsonl.part").write_bytes(b"".join(kept[:lines]) + kept[lines][:100])
