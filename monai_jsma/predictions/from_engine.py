# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""From the last batch of an engine to the :class:`Evidence` of each of its images.

MONAI's engines hold batch and output either as they were (a dictionary of tensors of the whole batch) or, by default,
decollated (a list with one dictionary for each image). Both are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor, decollate_batch

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.data.tensor_batch import TensorPyramidBatch, round_to_uint8
from monai_jsma.geometry import Box
from monai_jsma.predictions.evidence import Evidence, InnerPatch, SeenRegion
from monai_jsma.tasks import MULTICLASS, Label

__all__ = ["collect_evidence"]


def collect_evidence(engine: Engine) -> list[Evidence]:
    """Collect the evidence of each image of an engine's last batch.

    Args:
        engine: an engine whose batch has ``"pyramid"`` and whose output has ``"attention"``, such as
            :class:`~monai_jsma.engines.JSMAEvaluator`. Without ``"pyramid"``, ``"image"`` is the whole image, seen
            through the patches of ``engine.network``. An item of the batch may have its ``"evidence"`` instead, as
            :class:`~monai_jsma.engines.JSMAPredictor` takes it from a record.

    Raises:
        ValueError: if batch or output lack what is needed, or the attention does not fit the image.
    """
    items = _split_batch(engine.state.batch)
    outputs = _split_batch(engine.state.output)
    collected = []
    for item, output in zip(items, outputs, strict=True):
        if "evidence" in item:
            collected.append(_add_truth(item["evidence"], item))
        else:
            # Where both have a key, the item has the value as it was loaded, the output as the network took it.
            data = {**output, **item}
            if data.get("pyramid") is None:
                data |= _see_whole_image(data, engine)
            if "regions" in data:
                data |= _see_regions(data, _find_network(engine).region_sizes)
            data |= _find_task(engine)
            collected.append(_make_evidence(data))
    return collected


def _split_batch(state: Any) -> list[dict[str, Any]]:
    """The batch or the output of an engine, as one dictionary for each image."""
    if isinstance(state, list):
        return state
    if not isinstance(state, Mapping):
        raise ValueError(f"engine.state must hold a dictionary or MONAI's list of dictionaries, but has {type(state)}.")
    items = decollate_batch({key: value for key, value in state.items() if key != "pyramid"})
    if state.get("pyramid") is not None:
        for item, pyramid in zip(items, state["pyramid"], strict=True):
            item["pyramid"] = pyramid
    return items


def _see_whole_image(data: Mapping[str, Any], engine: Engine) -> dict[str, Any]:
    """The pyramid and the thumbnail that the engine's network makes of a whole image; nothing if it is no such network.

    The spacing of the image is then the network's finest, as in ``network(image)``.
    """
    network = _find_network(engine)
    image = data.get("image")
    if not hasattr(network, "magnifications") or image is None:
        return {}
    image = torch.as_tensor(image)
    (pyramid,) = TensorPyramidBatch(image[None], network.magnifications, network.patch_size, aligned=network.aligned)
    size = getattr(network, "thumbnail_size", pyramid.geometry.size)
    thumbnail = torch.from_numpy(pyramid.thumbnail(size))
    metadata = getattr(image, "meta", None)  # it has the file's name
    return {"pyramid": pyramid, "image": MetaTensor(thumbnail, meta=metadata)}


def _find_task(engine: Engine) -> dict[str, Any]:
    """What the engine's network is asked; of one that does not say so, one class of several."""
    network = _find_network(engine)
    return {"task": getattr(network, "task", MULTICLASS), "thresholds": getattr(network, "thresholds", None)}


def _find_network(engine: Engine) -> Any:
    network: Any = getattr(engine, "network", None)
    return getattr(network, "module", network)  # of a network on several processes


def _see_regions(data: Mapping[str, Any], region_sizes: Sequence[int]) -> dict[str, Any]:
    """What a network that zooms has looked at: the regions of its first stage as cells, and the patches inside."""
    slide: Pyramid = data["pyramid"]
    regions = _to_array(data["regions"])  # (k, stages)
    weights = _to_array(data["weights"]).astype(np.float64)
    total: Counter[tuple[int, ...]] = Counter()
    for path, cell, weight in zip(regions.tolist(), _to_array(data["cells"]).tolist(), weights.tolist(), strict=True):
        if weight > 0:  # 0: nothing was drawn
            total[(*path, cell)] += weight

    patches = []
    for (*path, cell), weight in total.most_common():
        region = slide
        for number, size in zip(path, region_sizes, strict=True):
            region = region.region(number, size)
        level = region.geometry.cell(cell).level
        patch = InnerPatch(
            magnification=region.geometry.names[level],
            mpp=region.geometry.spacings[level],
            box=region.box(cell),
            weight=weight,
        )
        patches.append(patch)
    return {
        "pyramid": slide.as_regions(region_sizes[0]),
        "cells": regions[:, 0],
        "inner_patches": tuple(patches),
        "regions_looked_at": int(data["num_regions"]),
        "seen_regions": _list_seen_regions(data, region_sizes),
    }


def _list_seen_regions(data: Mapping[str, Any], region_sizes: Sequence[int]) -> tuple[SeenRegion, ...] | None:
    """The regions of all stages that were looked at; None if the output does not have them."""
    paths = _optional_array(data, "seen_regions")
    if paths is None:
        return None
    probabilities = _to_array(data["seen_probability"]).tolist()
    attention = _to_array(data["seen_attention"]).astype(np.float64)
    seen = []
    for number in range(int(data["num_regions"])):  # more are those of other slides of the batch
        path = [region for region in paths[number].tolist() if region >= 0]
        region: Pyramid = data["pyramid"]
        for cell, size in zip(path, region_sizes):
            region = region.region(cell, size)
        stage = len(path)
        cells = region if stage == len(region_sizes) else region.as_regions(region_sizes[stage])
        seen.append(_make_seen_region(cells, attention[number], stage=stage, probability=probabilities[number]))
    return tuple(seen)


def _make_seen_region(region: Pyramid, attention: np.ndarray, *, stage: int, probability: float) -> SeenRegion:
    """A region as it is stored, whatever its orientation."""
    geometry = region.stored_geometry
    num_cells = geometry.num_cells
    stored_cells = [region.stored_index(cell) for cell in range(num_cells)]
    stored = np.empty(num_cells)
    stored[stored_cells] = attention[:num_cells]
    return SeenRegion(
        stage=stage,
        box=Box(*region.origin, *geometry.size),
        probability=probability,
        magnifications=geometry.spacings,
        patch_size=geometry.patch_size,
        aligned=geometry.aligned,
        attention=tuple(stored.tolist()),
    )


def _make_evidence(data: Mapping[str, Any]) -> Evidence:
    """The evidence of one image, from its item in the batch and its part of the output."""
    if data.get("pyramid") is None or "attention" not in data:
        raise ValueError(
            f"there is no attention to show or to measure: engine.state holds {sorted(data)}, but 'pyramid' (of the "
            "transforms; or 'image', and a network of monai_jsma in the engine) and 'attention' (of JSMATrainer or "
            "JSMAEvaluator) are needed."
        )
    pyramid: Pyramid = data["pyramid"]
    metadata = getattr(data.get("image"), "meta", {})
    file = pyramid.path or str(metadata.get("filename_or_obj") or "")
    certified = _optional_array(data, "certified")
    confidence = _optional_array(data, "confidence")
    scores = _optional_array(data, "pred")
    return Evidence(
        file=file,
        location=pyramid.origin,
        geometry=pyramid.geometry,
        orientation=pyramid.orientation,
        mpp_source=pyramid.mpp_source,
        bounds=pyramid.bounds,
        attention=_cut_padding(data["attention"], pyramid.geometry.num_cells, file),
        cells=_to_array(data["cells"]).astype(np.int64),
        weights=_to_array(data["weights"]).astype(np.float64),
        scores=None if scores is None else scores.reshape(-1).astype(np.float64),
        label=_read_label(data),
        certified=None if certified is None else bool(certified),
        confidence=None if confidence is None else float(confidence),
        intervals=_optional_array(data, "intervals"),
        draw_probabilities=_optional_array(data, "draw_probabilities"),
        true_cells=_optional_array(data, "cell"),
        true_magnification=data.get("level"),
        thumbnail=_find_thumbnail(data),
        pyramid=pyramid,
        inner_patches=data.get("inner_patches"),
        regions_looked_at=data.get("regions_looked_at"),
        seen_regions=data.get("seen_regions"),
        task=data["task"],
        thresholds=data["thresholds"],
    )


def _find_thumbnail(data: Mapping[str, Any]) -> np.ndarray | None:
    """The thumbnail as it is drawn, ``uint8``: the network takes floats in [0, 1] too."""
    image = _optional_array(data, "image")
    if image is None or image.dtype == np.uint8:
        return image
    return round_to_uint8(torch.from_numpy(image)).numpy()


def _add_truth(evidence: Evidence, item: Mapping[str, Any]) -> Evidence:
    """Evidence of a record, which has no answer, with that of its item."""
    return replace(evidence, true_cells=_optional_array(item, "cell"), true_magnification=item.get("level"))


def _cut_padding(attention: Any, num_cells: int, file: str) -> np.ndarray:
    """The attention of one image without the padding of its batch, float64 ``(num_cells,)``."""
    array = _to_array(attention).astype(np.float64)
    if array.ndim != 1 or len(array) < num_cells:
        raise ValueError(f"{file}: attention of shape {array.shape} for an image of {num_cells} cells.")
    return array[:num_cells]


def _read_label(data: Mapping[str, Any]) -> Label | None:
    """A class that is given as its index or one-hot, of multi-label all classes that are 1; None if there is none."""
    value = _optional_array(data, "label")
    if value is None:
        return None
    value = value.reshape(-1)
    if data["thresholds"] is not None:
        return tuple(np.flatnonzero(value).tolist())
    if value.size == 1:
        return int(value[0])
    return int(value.argmax())


def _optional_array(data: Mapping[str, Any], key: str) -> np.ndarray | None:
    value = data.get(key)
    return None if value is None else _to_array(value)


def _to_array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return np.asarray(value)
