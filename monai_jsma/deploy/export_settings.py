# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a folder of an exported network says of it: ``settings.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from monai_jsma._io import file_sha256, read_text, write_whole

__all__ = ["ATTENTION", "CLASSIFIER", "HEAD", "SETTINGS", "ExportSettings", "StageSettings", "name_stage"]

SETTINGS = "settings.json"
ATTENTION = "attention"  # graph: thumbnails to logits of places
CLASSIFIER = "classifier"  # graph: patches and weights to features and logits
HEAD = "head.npz"  # the linear classifier
_FORMAT = 1


def name_stage(number: int) -> str:
    """Name of the graph of a stage of a zoom, 0 for the slides."""
    return f"zoom_{number}"


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """One stage of a zoom.

    Args:
        region_size: height and width of a region, in pixels of the finest magnification.
        thumbnail_size: height and width of the thumbnail of a window.
        normalization: ``"softmax"`` or ``"sigmoid"``.
        tissue_power: regions have a neutral probability proportional to their tissue to this power.
    """

    region_size: int
    thumbnail_size: Sequence[int]
    normalization: str
    tissue_power: float


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What the runner must know of a network beside its graphs.

    Args:
        num_classes: number of labels.
        class_names: their names; None where the network has none.
        magnifications: spacings in um per pixel, coarse to fine.
        patch_size: height and width of a patch, in pixels of its magnification.
        aligned: whether patches lie side by side.
        thumbnail_size: height and width of the thumbnail, of a region if there are stages; None: none is looked at.
        normalization: ``"softmax"`` or ``"sigmoid"``; None without a thumbnail.
        level_prior: None or ``"balanced"``.
        unit_length: whether features have length 1.
        non_negative: whether they are never below 0.
        scale: factor of the features before the classifier.
        chunk_size: number of patches that are encoded at once.
        stages: stages of the zoom, from the slide downwards.
        sampler: the sampler that evaluates, see :func:`~monai_jsma.deploy.make_sampler`.
        seed: seed of what is drawn; None: another one each time.
        default_mpp: spacing of files that state none, in um per pixel.
        whole_image: whether each image is one patch.
        tissue_only: whether the tissue of an image is looked for.
        region_size: height and width of the regions that slides are cut to; None: an image is looked at as a whole.
        region_mpp: um per pixel of ``region_size``.
        files: SHA-256 of each file of the folder that the runner reads, by name.
        largest_difference: largest difference between the graphs and the network, relative to the largest value, when
            they were written.
        made_with: versions of the packages that wrote it.
    """

    num_classes: int
    class_names: Sequence[str] | None
    magnifications: Sequence[float]
    patch_size: int
    aligned: bool
    thumbnail_size: Sequence[int] | None
    normalization: str | None
    level_prior: str | None
    unit_length: bool
    non_negative: bool
    scale: float
    chunk_size: int
    stages: Sequence[StageSettings]
    sampler: Mapping[str, Any]
    seed: int | None
    default_mpp: float | None
    whole_image: bool
    tissue_only: bool
    region_size: Sequence[int] | None
    region_mpp: float | None
    files: Mapping[str, str]
    largest_difference: Mapping[str, float]
    made_with: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write ``settings.json``."""
        content = {"format": _FORMAT, **asdict(self)}
        write_whole(folder / SETTINGS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``settings.json``, and check the files that it names.

        Raises:
            FileNotFoundError: if the folder holds no exported network, or a file is missing.
            ValueError: if the settings are not of this version, or a file is not the one that was written.
        """
        path = folder / SETTINGS
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; name a folder that 'python -m monai_jsma export' wrote.")
        content = _parse(path)
        stages = [StageSettings(**stage) for stage in content.pop("stages")]
        settings = cls(stages=stages, **content)
        for name, checksum in settings.files.items():
            _check_file(folder / name, checksum)
        return settings


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, "settings of an exported network"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: it is no JSON ({error}); export the network again.") from error
    version = content.pop("format", None) if isinstance(content, dict) else None
    names = {field.name for field in fields(ExportSettings)}
    if version != _FORMAT or set(content) != names:
        raise ValueError(
            f"{path}: its format is {version!r}, and this version of monai_jsma reads {_FORMAT}; export the network "
            "again, or run it with the version that is named under made_with."
        )
    return content


def _check_file(path: Path, checksum: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; copy all of the folder, or export the network again.")
    if file_sha256(path) != checksum:
        raise ValueError(f"{path}: it is not the file that was exported (another SHA-256); copy the folder again.")
