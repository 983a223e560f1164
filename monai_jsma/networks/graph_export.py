# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes a trained network as graphs, with what :class:`~monai_jsma.deploy.Runner` needs to run them on slides."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_jsma._io import file_sha256, replace_file, write_whole
from monai_jsma._version import __version__
from monai_jsma.deploy.export_settings import (
    ATTENTION,
    CLASSIFIER,
    HEAD,
    ExportSettings,
    StageSettings,
    name_stage,
)
from monai_jsma.networks.classifier import BagClassifier, OrdinalClassifier
from monai_jsma.networks.graphs import PatchGraph, ThumbnailGraph
from monai_jsma.networks.jsma import AttentionNetwork, JSMANet
from monai_jsma.networks.patch_encoder import PatchEncoder
from monai_jsma.networks.samplers import Sampler
from monai_jsma.networks.zoom import ZoomNet, ZoomStage

__all__ = ["Reading", "describe_sampler", "export_network"]

_OPSET = 18
_LARGE = 1 << 30  # bytes of weights from which on they lie in a file of their own: a file of ONNX holds 2 GB at most
_TOLERANCE = 1e-3  # of the largest value: a graph that differs by more is not the network
_LIBRARIES = {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}
_CLASSIFIERS = (BagClassifier, OrdinalClassifier)
_RUNNER_NEEDS = (
    "numpy",
    "scipy",
    "pillow",
    "tifffile",
    "imagecodecs",
    "openslide-python",
    "openslide-bin",
    "pydicom",
    "scikit-image",
    "shapely",
    "onnxruntime",
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the images of a network are read, beside what it knows itself.

    Args:
        default_mpp: spacing of files that state none, in um per pixel.
        whole_image: whether each image is one patch.
        tissue_only: whether the tissue of an image is looked for.
        region_size: height and width of the regions that slides are cut to; None: an image is looked at as a whole.
        region_mpp: um per pixel of ``region_size``; that of the finest magnification by default.
    """

    default_mpp: float | None = None
    whole_image: bool = False
    tissue_only: bool = False
    region_size: Sequence[int] | None = None
    region_mpp: float | None = None


class _Graph:
    """A graph that is to be written.

    Args:
        module: its module.
        examples: a batch of two of its inputs, by name.
        outputs: names of its outputs.
    """

    def __init__(self, module: nn.Module, examples: dict[str, Tensor], outputs: Sequence[str]) -> None:
        self.module = module.eval()
        self.examples = examples
        self.outputs = list(outputs)

    def export(self) -> torch.export.ExportedProgram:
        """The graph, for any number of images."""
        number = torch.export.Dim("number", min=1)
        shapes = {name: {0: number} for name in self.examples}
        return torch.export.export(self.module, (), self.examples, dynamic_shapes=shapes)

    def make_inputs(self, number: int) -> dict[str, Tensor]:
        """Other inputs of some images: noise."""
        generator = torch.Generator().manual_seed(number)
        inputs = {}
        for name, example in self.examples.items():
            shape = (number, *example.shape[1:])
            if example.dtype == torch.uint8:
                inputs[name] = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
            else:
                inputs[name] = torch.rand(shape, generator=generator)
        return inputs


def export_network(
    network: nn.Module,
    folder: str | Path,
    *,
    sampler: Sampler | None = None,
    seed: int | None = 0,
    reading: Reading | None = None,
) -> Path:
    """Write the graphs of a network, and the settings of what lies around them.

    Each graph is written by ``torch.export`` (``.pt2``) and as ONNX, and ONNX Runtime is compared with the network.

    Args:
        network: a trained :class:`~monai_jsma.networks.JSMANet` or :class:`~monai_jsma.networks.ZoomNet`.
        folder: folder to write, new or empty.
        sampler: sampler that evaluates; that of the network by default.
        seed: seed of what it draws; None: another one each time.
        reading: how images are read.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder holds something.
        ImportError: if a library is missing.
        ValueError: if it is another network, a part of it cannot be exported, or a graph gives other numbers.
    """
    folder = Path(folder)
    region_network = _find_region_network(network)
    _check_libraries(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    settings = _describe(network, region_network, sampler=sampler, seed=seed, reading=reading or Reading())

    files: dict[str, str] = {}
    differences: dict[str, float] = {}
    for name, graph in _list_graphs(network, region_network):
        files |= _write_graph(folder / name, graph)
        differences[name] = _compare(folder / f"{name}.onnx", graph)
    _write_head(folder / HEAD, region_network.classifier)
    files[HEAD] = file_sha256(folder / HEAD)
    settings = replace(settings, files=files, largest_difference=differences)
    _write_manifest(folder, settings)
    settings.write(folder)
    return folder


def _find_region_network(network: nn.Module) -> JSMANet:
    """The network with the patch encoder.

    Raises:
        ValueError: if there are no graphs of such a network.
    """
    region_network = network.region_network if isinstance(network, ZoomNet) else network
    if not isinstance(region_network, JSMANet):
        raise ValueError(
            f"{type(network).__name__} is not exported, only JSMANet and ZoomNet are: use it in Python with its state "
            "dict ('model.pt')."
        )
    if region_network.stain_norm is not None:
        raise ValueError(
            f"the network has stain_norm '{region_network.stain_norm}', which MONAI estimates of each image and the "
            "runner cannot: train without it, or use the network in Python."
        )
    if type(region_network.classifier) not in _CLASSIFIERS:
        kind = type(region_network.classifier).__name__
        raise ValueError(
            f"the classifier of the network is a {kind}, and the runner knows linear ones of one label for an image: "
            "use the network in Python."
        )
    return region_network


def _check_libraries(folder: Path) -> None:
    missing = [package for module, package in _LIBRARIES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(
            f"{folder}: it cannot be written without {', '.join(missing)}; pip install 'monai-jsma[export]'."
        )


# ------------------------------------------------------------------------------------------------------------- settings


def _describe(
    network: nn.Module, region_network: JSMANet, *, sampler: Sampler | None, seed: int | None, reading: Reading
) -> ExportSettings:
    evaluation = network.evaluation_sampler if sampler is None else sampler
    assert isinstance(evaluation, Sampler)
    stages = []
    if isinstance(network, ZoomNet):
        stages = [_describe_stage(stage) for stage in network.stages]
    attends = region_network.thumbnail_encoder is not None
    names = network.class_names
    encoder = region_network.patch_encoder
    return ExportSettings(
        num_classes=region_network.classifier.out_features,
        class_names=None if names is None else list(names),  # type: ignore[arg-type]
        magnifications=[magnification.mpp for magnification in region_network.magnifications],
        patch_size=region_network.patch_size,
        aligned=region_network.aligned,
        thumbnail_size=list(region_network.thumbnail_size) if attends else None,
        normalization=region_network.attention.normalization if attends else None,  # type: ignore[arg-type]
        level_prior=region_network.level_prior,
        unit_length=encoder.has_unit_length,
        non_negative=encoder.non_negative,
        scale=encoder.scale,
        chunk_size=encoder.chunk_size,
        stages=stages,
        sampler=describe_sampler(evaluation),
        seed=seed,
        default_mpp=reading.default_mpp,
        whole_image=reading.whole_image,
        tissue_only=reading.tissue_only,
        region_size=None if reading.region_size is None else list(reading.region_size),
        region_mpp=reading.region_mpp or region_network.magnifications[-1].mpp,
        files={},
        largest_difference={},
        made_with=_list_versions(),
    )


def _describe_stage(stage: nn.Module) -> StageSettings:
    assert isinstance(stage, ZoomStage)
    return StageSettings(
        region_size=stage.region_size,
        thumbnail_size=list(stage.thumbnail_size),
        normalization=stage.attention.normalization,
        tissue_power=stage.tissue_power,
    )


def describe_sampler(sampler: Sampler) -> dict[str, Any]:
    """Name and settings of a sampler, as :func:`~monai_jsma.deploy.make_sampler` takes them."""
    described: dict[str, Any] = {"name": type(sampler).__name__}
    for entry in fields(sampler):  # type: ignore[arg-type]
        value = getattr(sampler, entry.name)
        described[entry.name] = describe_sampler(value) if isinstance(value, Sampler) else value
    return described


def _list_versions() -> dict[str, str]:
    versions = {"monai-jsma": __version__}
    for package in ("torch", *_LIBRARIES.values()):
        versions[package] = importlib.metadata.version(package)
    return versions


# --------------------------------------------------------------------------------------------------------------- graphs


def _list_graphs(network: nn.Module, region_network: JSMANet) -> Iterator[tuple[str, _Graph]]:
    """The graphs by name, on the CPU in float32."""
    if isinstance(network, ZoomNet):
        for number, stage in enumerate(network.stages):
            assert isinstance(stage, ZoomStage)
            graph = ThumbnailGraph(stage.encoder, stage.standardizer, stage.attention.logits)
            yield name_stage(number), _make_thumbnail_graph(graph, stage.thumbnail_size)
    encoder = region_network.thumbnail_encoder
    if encoder is not None:
        attention = region_network.attention
        assert isinstance(attention, AttentionNetwork)
        graph = ThumbnailGraph(encoder, region_network.thumbnail_standardizer, attention.logits)
        yield ATTENTION, _make_thumbnail_graph(graph, region_network.thumbnail_size)
    yield (
        CLASSIFIER,
        _make_patch_graph(region_network.patch_encoder, region_network.classifier, region_network.patch_size),
    )


def _make_thumbnail_graph(module: ThumbnailGraph, size: Sequence[int]) -> _Graph:
    height, width = size
    thumbnails = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    return _Graph(_copy_to_cpu(module), {"thumbnails": thumbnails}, ["places"])


def _make_patch_graph(encoder: PatchEncoder, classifier: BagClassifier, patch_size: int) -> _Graph:
    patches = torch.zeros(2, 3, patch_size, patch_size, dtype=torch.uint8)
    weights = torch.full((2,), 0.5)
    module = _copy_to_cpu(PatchGraph(encoder, classifier))
    return _Graph(module, {"patches": patches, "weights": weights}, ["features", "logits"])


def _copy_to_cpu(module: nn.Module) -> nn.Module:
    copied = copy.deepcopy(module).float().cpu()
    return copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _write_graph(path: Path, graph: _Graph) -> dict[str, str]:
    """Write a graph as ``.pt2`` and ``.onnx``, and give the checksums of the files that the runner reads.

    Raises:
        ValueError: if it cannot be exported.
    """
    num_bytes = sum(value.numel() * value.element_size() for value in graph.module.state_dict().values())
    onnx_file = path.with_suffix(".onnx")
    with _quiet(), torch.no_grad():
        try:
            program = graph.export()
            with replace_file(path.with_suffix(".pt2")) as draft:
                torch.export.save(program, draft)
            torch.onnx.export(
                program,
                f=onnx_file,
                input_names=list(graph.examples),
                output_names=graph.outputs,
                opset_version=_OPSET,
                external_data=num_bytes > _LARGE,
                dynamo=True,
                verbose=False,
            )
        except (RuntimeError, torch.onnx.OnnxExporterError) as error:
            raise ValueError(f"{onnx_file}: {_describe_failure(error)}") from error
    written = sorted(path.parent.glob(f"{path.name}.onnx*"))
    return {file.name: file_sha256(file) for file in written}


def _describe_failure(error: Exception) -> str:
    cause = error.__cause__ or error
    first = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    return f"an encoder cannot be exported as a graph: {first} Choose another encoder, or use the network in Python."


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings about operators of their own."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def _compare(path: Path, graph: _Graph) -> float:
    """The largest difference between ONNX Runtime and PyTorch on noise, relative to the largest value.

    Raises:
        ValueError: if it is more than rounding.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = 0.0
    for number in (1, 3):
        inputs = graph.make_inputs(number)
        with torch.no_grad():
            expected = graph.module(**inputs)
        if isinstance(expected, Tensor):
            expected = (expected,)
        given = session.run(graph.outputs, {name: value.numpy() for name, value in inputs.items()})
        for theirs, ours in zip(given, expected):
            difference = np.abs(theirs - ours.numpy()).max()
            largest = max(largest, float(difference / ours.abs().max()))
    if not largest <= _TOLERANCE:  # NaN is none
        raise ValueError(
            f"{path}: ONNX Runtime gives other numbers than the network, by {largest:.2g} of the largest; this encoder "
            "is not computed rightly there: choose another one, or use the network in Python."
        )
    return largest


def _write_head(path: Path, classifier: BagClassifier) -> None:
    with torch.no_grad():
        weight, bias = classifier.make_layer()
    if bias is None:
        bias = weight.new_zeros(len(weight))
    layer = {"weight": weight, "bias": bias}
    arrays = {name: value.detach().cpu().float().numpy() for name, value in layer.items()}
    with replace_file(path) as draft, draft.open("wb") as file:
        np.savez(file, weight=arrays["weight"], bias=arrays["bias"])


def _write_manifest(folder: Path, settings: ExportSettings) -> None:
    """What packs the folder as an application of MONAI Deploy: ``app.yaml`` and ``requirements.txt``."""
    names: Mapping[int, str] = dict(enumerate(settings.class_names or ()))
    classes = ", ".join(names.values()) or f"{settings.num_classes} classes"
    lines = [
        "application:",
        f"  title: {folder.resolve().name} - {classes}",
        "  version: 1.0",
        '  inputFormats: ["file"]',
        '  outputFormats: ["file"]',
        "",
        "resources:",
        "  cpu: 2",
        "  gpu: 0",
        "  memory: 4Gi",
    ]
    write_whole(folder / "app.yaml", "\n".join(lines) + "\n")
    packages = [f"{package}=={importlib.metadata.version(package)}" for package in _RUNNER_NEEDS]
    write_whole(folder / "requirements.txt", "\n".join(packages) + "\n")
