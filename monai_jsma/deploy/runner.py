# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Runs an exported network on slides, with numpy and ONNX Runtime: PyTorch and MONAI need not be installed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma._io import count_cores
from monai_jsma.data.pyramid import Pyramid, empty_patches
from monai_jsma.data.seeds import derive_seed
from monai_jsma.datalists.image_opening import open_pyramid
from monai_jsma.datalists.tissue import find_tissue, whole_slide_items
from monai_jsma.deploy.array_attention import (
    attend,
    attend_equally,
    find_tissue_prior,
    keep_tissue_cells,
    log_softmax,
    softmax,
)
from monai_jsma.deploy.array_bounds import ClassWeights
from monai_jsma.deploy.array_drawing import CellDraw
from monai_jsma.deploy.array_sampling import CellSample, make_sampler
from monai_jsma.deploy.cell_tree import AllCells, CellTree, KnownCells
from monai_jsma.deploy.export_settings import ATTENTION, CLASSIFIER, HEAD, ExportSettings, name_stage
from monai_jsma.deploy.random_stream import RandomStream
from monai_jsma.geometry import Box

__all__ = ["ReadPatch", "Runner", "RunnerResult"]

_CPU = "CPUExecutionProvider"


@dataclass(frozen=True, kw_only=True)
class ReadPatch:
    """A patch that was read.

    Args:
        cell: flat index of its cell, in its region if there are stages.
        regions: number of the region at each stage, row by row.
        weight: its share in the bag.
        mpp: spacing of its magnification in um per pixel.
        box: the patch in level-0 pixels of the file.
    """

    cell: int
    regions: tuple[int, ...]
    weight: float
    mpp: float
    box: Box


@dataclass(frozen=True, kw_only=True)
class RunnerResult:
    """What a network says of an image.

    Args:
        path: the file.
        label: the most probable class.
        class_name: its name; None where the network has no names.
        probabilities: probabilities of the classes ``(classes,)``.
        logits: logits of the classes ``(classes,)``.
        patches: the patches that were read.
        log_attention: log attention of the cells that are known ``(cells,)``: all but of a slide with stages.
        outputs: what else the sampler gives: ``certified``, ``intervals``, ``confidence``, ``draw_probabilities``.
        num_regions: how many thumbnails of regions were looked at.
    """

    path: str
    label: int
    class_name: str | None
    probabilities: np.ndarray
    logits: np.ndarray
    patches: list[ReadPatch]
    log_attention: np.ndarray
    outputs: Mapping[str, Any]
    num_regions: int

    def as_json(self) -> dict[str, Any]:
        """All but the attention, as JSON can hold it."""
        patches = []
        for patch in self.patches:
            box = [float(value) for value in patch.box]
            entry = {"cell": patch.cell, "weight": patch.weight, "mpp": patch.mpp, "box": box}
            if patch.regions:
                entry["regions"] = list(patch.regions)
            patches.append(entry)
        outputs = {name: np.asarray(value).tolist() for name, value in self.outputs.items()}
        return {
            "image": self.path,
            "label": self.label,
            "class_name": self.class_name,
            "probabilities": self.probabilities.tolist(),
            **outputs,
            "num_regions": self.num_regions,
            "patches": patches,
        }


class Runner:
    """An exported network.

    It chooses, reads and weighs patches as the network does: with the same sampler and seed the same cells, label,
    probabilities and certificates, up to what another library rounds otherwise.

    Args:
        folder: folder that ``python -m monai_jsma export`` or :func:`~monai_jsma.networks.export_network` wrote.
        sampler: sampler instead of the exported one, such as ``{"name": "Certified", "max_patches": 20}``; see
            :func:`~monai_jsma.deploy.make_sampler`.
        seed: seed of what is drawn instead of the exported one.
        providers: ONNX Runtime's execution providers. Only its CPU computes in all digits of float32; with others,
            bounds of certificates are as wide as for float16.
        num_threads: threads of ONNX Runtime; all cores by default.

    Raises:
        FileNotFoundError: if the folder or a file of it is missing.
        ValueError: if a file is not what was exported, or the sampler is none.
        ImportError: if ONNX Runtime is not installed.

    Example::

        runner = Runner("exported")
        result = runner("slide.svs")
        result.class_name, result.probabilities
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        sampler: Mapping[str, Any] | None = None,
        seed: int | None = None,
        providers: Sequence[str] = (_CPU,),
        num_threads: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.settings = ExportSettings.read(self.folder)
        self.sampler = make_sampler(self.settings.sampler if sampler is None else sampler)
        self.seed = self.settings.seed if seed is None else seed
        is_cpu = all(provider == _CPU for provider in providers)
        self._graphs = _Graphs(self.folder, providers, num_threads)
        self._threads = ThreadPoolExecutor(count_cores(), "read patches")
        with np.load(self.folder / HEAD) as head:
            self._weight = head["weight"]
            self._bias = head["bias"]
        self._head: ClassWeights | None = None
        if self.settings.unit_length:
            epsilon = np.finfo(np.float32 if is_cpu else np.float16).eps
            self._head = ClassWeights(
                self._weight * np.float32(self.settings.scale),
                self._bias,
                non_negative=self.settings.non_negative,
                rounding=float(epsilon) ** 0.5,
            )

    def __call__(
        self,
        path: str | os.PathLike,
        *,
        mpp: float | None = None,
        location: Sequence[int] | None = None,
        size: Sequence[int] | None = None,
    ) -> RunnerResult:
        """Predict an image or slide, or a region of it.

        Args:
            path: path of the file.
            mpp: spacing of level 0 in um per pixel; overrides what the file states.
            location: row and column of the region's top-left corner, in level-0 pixels.
            size: height and width of the region, in level-0 pixels.

        Raises:
            FileNotFoundError: if there is no such file.
            SlideError: if the file cannot be read.
            ValueError: if its spacing is unknown or too coarse, the region leaves it, it holds no tissue, or the
                network gives no numbers.
        """
        return self.predict(self.open(path, mpp=mpp, location=location, size=size))

    def open(
        self,
        path: str | os.PathLike,
        *,
        mpp: float | None = None,
        location: Sequence[int] | None = None,
        size: Sequence[int] | None = None,
    ) -> Pyramid:
        """Open an image as it is predicted, see :meth:`__call__`."""
        settings = self.settings
        pyramid = open_pyramid(
            path,
            settings.magnifications,
            patch_size=settings.patch_size,
            mpp=mpp,
            default_mpp=settings.default_mpp,
            location=location,
            size=size,
            aligned=settings.aligned,
            whole_image=settings.whole_image,
        )
        return pyramid.with_tissue(find_tissue(pyramid)) if settings.tissue_only else pyramid

    def predict_regions(self, path: str | os.PathLike, *, mpp: float | None = None) -> Iterator[RunnerResult]:
        """Predict the regions of a slide that hold tissue, one after the other, as inference of a bundle does.

        Args:
            path: path of the slide. An image no larger than a region is one.
            mpp: spacing of level 0 in um per pixel; overrides what the file states.

        Raises:
            ValueError: if the network looks at images as a whole, or the slide cannot be used.
        """
        settings = self.settings
        if settings.region_size is None or settings.region_mpp is None:
            raise ValueError(f"{self.folder}: this network looks at an image as a whole; call the runner itself.")
        item: dict[str, Any] = {"image": os.fspath(path)}
        if mpp is not None:
            item["mpp"] = mpp
        items, faults = whole_slide_items(
            [item],
            settings.region_size,
            settings.region_mpp,
            magnifications=settings.magnifications,
            default_mpp=settings.default_mpp,
        )
        for fault in faults:
            raise ValueError(fault.reason)
        for region in items:
            yield self(path, mpp=mpp, location=region.get("location"), size=region.get("size"))

    def predict(self, pyramid: Pyramid) -> RunnerResult:
        """Predict an image that is open.

        Args:
            pyramid: the image, at the magnifications of the network.

        Raises:
            ValueError: if the network gives no numbers.
        """
        known = self._look_at(pyramid)
        reader = _Reader(self, known)
        seed = int.from_bytes(os.urandom(7)) if self.seed is None else derive_seed(self.seed, [pyramid])
        sample = self.sampler.sample(known, reader, RandomStream(seed))
        if not np.isfinite(sample.logits).all():
            raise ValueError(f"{pyramid.path}: the network gives logits {sample.logits}; its weights are not usable.")

        probabilities = softmax(sample.logits)
        label = int(probabilities.argmax())
        names = self.settings.class_names
        return RunnerResult(
            path=pyramid.path,
            label=label,
            class_name=None if names is None else names[label],
            probabilities=probabilities,
            logits=sample.logits,
            patches=_list_patches(sample, known),
            log_attention=known.log_attention,
            outputs=sample.outputs,
            num_regions=known.num_looked_at if isinstance(known, CellTree) else 0,
        )

    def classify(self, bags: np.ndarray) -> np.ndarray:
        """Logits ``(..., classes)`` of bags ``(..., features)``."""
        scaled = bags * np.float32(self.settings.scale)
        return scaled @ self._weight.T + self._bias

    # --------------------------------------------------------------------------------------------------- attention

    def _look_at(self, pyramid: Pyramid) -> KnownCells:
        if self.settings.stages:
            sizes = [stage.region_size for stage in self.settings.stages]
            return CellTree(pyramid, sizes, self._attend_stage)
        grids = pyramid.geometry.grids
        log_attention = self._attend_cells([pyramid])[0]
        if pyramid.tissue is not None:
            balanced = self.settings.level_prior == "balanced"
            log_attention = keep_tissue_cells(log_attention, pyramid.tissue_cells(), grids, balanced=balanced)
        _check_attention(log_attention, pyramid)
        return AllCells(log_attention, pyramid)

    def _attend_cells(self, windows: Sequence[Pyramid]) -> np.ndarray:
        """Log attention of the cells of windows of one size ``(windows, cells)``."""
        settings = self.settings
        grids = windows[0].geometry.grids
        if settings.thumbnail_size is None:
            return attend_equally(grids, level_prior=settings.level_prior)[None]
        places = self._map_thumbnails(ATTENTION, windows, settings.thumbnail_size)
        rows = []
        for levels in places:
            rows.append(
                attend(levels, grids, normalization=str(settings.normalization), level_prior=settings.level_prior)
            )
        return np.stack(rows)

    def _attend_stage(self, stage: int, windows: list[Pyramid]) -> np.ndarray:
        """Log probabilities of the regions, or of the cells, of windows of a stage ``(windows, actions)``."""
        if stage == len(self.settings.stages):
            log_prob = self._attend_cells(windows)
        else:
            log_prob = self._attend_regions(stage, windows)
        _check_attention(log_prob, windows[0])
        return log_prob

    def _attend_regions(self, stage: int, windows: list[Pyramid]) -> np.ndarray:
        settings = self.settings.stages[stage]
        places = self._map_thumbnails(name_stage(stage), windows, settings.thumbnail_size)
        rows = []
        for window, levels in zip(windows, places):
            grid = window.region_grid(settings.region_size)
            log_attention = attend(levels, [grid], normalization=settings.normalization, level_prior=None)
            shares = window.tissue_shares(settings.region_size)
            prior = find_tissue_prior(shares, settings.tissue_power)
            rows.append(log_softmax(log_attention + prior))
        return np.stack(rows)

    def _map_thumbnails(self, graph: str, windows: Sequence[Pyramid], size: Sequence[int]) -> np.ndarray:
        """Logits of the places of thumbnails ``(windows, magnifications, height, width)``."""
        height, width = size
        thumbnails = list(self._threads.map(lambda window: window.thumbnail((height, width)), windows))
        return self._graphs.run(graph, "places", thumbnails=np.stack(thumbnails))

    # ----------------------------------------------------------------------------------------------------- patches

    def encode(self, places: Sequence[tuple[Pyramid, int]]) -> np.ndarray:
        """Features ``(n, features)`` of patches, each a cell of an image."""
        parts = []
        size = self.settings.chunk_size
        for start in range(0, len(places), size):
            chunk = places[start : start + size]
            patches = empty_patches(len(chunk), self.settings.patch_size)
            jobs = [(pyramid, patch, cell) for patch, (pyramid, cell) in zip(patches, chunk)]
            list(self._threads.map(_read_patch, jobs))
            weights = np.zeros(len(chunk), np.float32)
            features = self._graphs.run(CLASSIFIER, "features", patches=np.ascontiguousarray(patches), weights=weights)
            parts.append(features)
        return np.concatenate(parts)

    @property
    def num_features(self) -> int:
        """Length of the features of a patch."""
        return int(self._weight.shape[1])

    @property
    def head(self) -> ClassWeights | None:
        """The classifier as it meets features of length 1; None where they are not."""
        return self._head


class _Graphs:
    """The graphs of a folder, each loaded when it is first used.

    Args:
        folder: folder of an exported network.
        providers: ONNX Runtime's execution providers.
        num_threads: number of its threads, 0 for all cores.
    """

    def __init__(self, folder: Path, providers: Sequence[str], num_threads: int) -> None:
        self._folder = folder
        self._providers = list(providers)
        self._runtime = _import_runtime()
        self._options = self._runtime.SessionOptions()
        self._options.intra_op_num_threads = num_threads
        self._sessions: dict[str, Any] = {}

    def run(self, graph: str, output: str, **inputs: np.ndarray) -> np.ndarray:
        """One output of a graph."""
        if graph not in self._sessions:
            file = self._folder / f"{graph}.onnx"
            self._sessions[graph] = self._runtime.InferenceSession(file, self._options, providers=self._providers)
        (result,) = self._sessions[graph].run([output], inputs)
        return result


def _import_runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime.") from error
    return onnxruntime


class _Reader:
    """What a sampler reads the cells of an image with.

    Args:
        runner: encodes and classifies.
        known: says where cells lie.
    """

    def __init__(self, runner: Runner, known: KnownCells) -> None:
        self.head = runner.head
        self._runner = runner
        self._known = known

    def encode(self, draw: CellDraw) -> np.ndarray:
        """Features of the drawn cells ``(k, features)``, 0 where none was drawn; equal cells are read once."""
        features = np.zeros((len(draw.cells), self._runner.num_features), np.float32)
        if not draw.drawn.any():
            return features
        cells, number = np.unique(draw.cells[draw.drawn], return_inverse=True)
        places = []
        for cell in cells.tolist():
            pyramid, place, _ = self._known.find_place(cell)
            places.append((pyramid, place))
        features[draw.drawn] = self._runner.encode(places)[number]
        return features

    def classify(self, bags: np.ndarray) -> np.ndarray:
        """Logits ``(..., classes)`` of bags ``(..., features)``."""
        return self._runner.classify(bags)


def _read_patch(job: tuple[Pyramid, np.ndarray, int]) -> None:
    pyramid, patch, cell = job
    pyramid.read_into(patch, cell)


def _list_patches(sample: CellSample, known: KnownCells) -> list[ReadPatch]:
    patches = []
    cells = sample.cells[sample.is_read].tolist()
    weights = sample.weights[sample.is_read].tolist()
    for cell, weight in zip(cells, weights):
        pyramid, place, regions = known.find_place(cell)
        level = pyramid.geometry.cell(place).level
        patch = ReadPatch(
            cell=place,
            regions=regions,
            weight=weight,
            mpp=pyramid.geometry.spacings[level],
            box=pyramid.box(place),
        )
        patches.append(patch)
    return patches


def _check_attention(log_attention: np.ndarray, pyramid: Pyramid) -> None:
    if np.isnan(log_attention).any():
        raise ValueError(f"{pyramid.path}: the network gives attention that is no number; its weights are not usable.")
