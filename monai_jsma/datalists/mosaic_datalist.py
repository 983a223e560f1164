# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A datalist of mosaics, made of the labeled images of another datalist.

Mosaics of one set are made of cores of this set only. A set is a split of the datalist; or a fold of all its labeled
images, so that a cross-validation can divide the mosaics again. All mosaics of a set are one group: they show the same
cores, so that what can be learned from them, and how sure a result is, depends on the number of different cores.

Beside each mosaic lies a GeoJSON file of the same name, with the boxes of the cores that decide its label. The table
``cores.csv`` names every core of every mosaic.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from monai_jsma._io import file_sha256, format_csv, write_whole
from monai_jsma.datalists.mosaic import Core, MosaicPlan, MosaicSettings, PlacedCore, find_side, plan_mosaics
from monai_jsma.datalists.mosaic_files import CoreSource, choose_mpp, open_sources, write_mosaic
from monai_jsma.datalists.schema import find_labels_fault, load_datalist, read_datalist, save_datalist
from monai_jsma.datalists.spelling import read_names_as_written
from monai_jsma.datalists.splits import SPLITS, Item, divide_items, group_of, make_splits

__all__ = ["JPEG_QUALITY", "MosaicOutput", "make_mosaics"]

JPEG_QUALITY = 95

_CACHE_BYTES = 128 * 2**20  # of decoded cores
_COLOR = [213, 94, 0]  # of the deciding class; QuPath refuses a class without a color
_HEADER = (
    "image", "label", "source", "group", "positive", "decides",
    "place_row", "place_col", "row", "col", "height", "width", "orientation",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MosaicOutput:
    """How many mosaics are written, and how.

    Args:
        num_train: number of training mosaics.
        num_validation: number of validation mosaics.
        num_test: number of test mosaics; with ``folds`` of each fold.
        folds: number of folds to divide the cores of all splits into, by group; None keeps the splits.
        fold: the fold to test on, from 0; with ``folds`` only.
        to_mpp: um per pixel of the mosaics, to which cores are resampled; None: as the cores, which must agree.
        quality: quality of JPEG, 1 to 100; None stores the pixels as they are.

    Raises:
        ValueError: if a number or the quality is out of range.
    """

    num_train: int = 200
    num_validation: int = 50
    num_test: int = 50
    folds: int | None = None
    fold: int = 0
    to_mpp: float | None = None
    quality: int | None = JPEG_QUALITY

    def __post_init__(self) -> None:
        numbers = self.numbers
        if min(numbers.values()) < 2:
            raise ValueError(f"each split needs at least 2 mosaics, one of each label, but got {numbers}.")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"the quality of JPEG is 1 to 100, but got {self.quality}.")
        if self.folds is not None and not 0 <= self.fold < self.folds >= 3:
            raise ValueError(
                f"fold={self.fold} of {self.folds} folds; the three splits need at least 3 folds, counted from 0."
            )

    @property
    def numbers(self) -> dict[str, int]:
        """Number of mosaics of each split."""
        return {"training": self.num_train, "validation": self.num_validation, "test": self.num_test}


class _Job(NamedTuple):
    """A mosaic to write: its set, its name without suffix, and what lies where."""

    set_name: str
    name: str
    plan: MosaicPlan


def make_mosaics(
    datalist: str | Path,
    out: str | Path,
    *,
    positive_class: str,
    settings: MosaicSettings | None = None,
    output: MosaicOutput | None = None,
    base_dir: str | Path | None = None,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """Write mosaics of the labeled images of a datalist, with a datalist of their own.

    ``out`` gets ``datalist.json``, ``cores.csv``, and for each split (or fold) a folder with mosaics (``.tif``) and
    their deciding cores (``.geojson``). The same arguments write the same bytes. An interrupted run continues, and
    mosaics that are there already are not written again.

    Args:
        datalist: datalist of the cores. Items without a label are not used.
        out: folder to write to.
        positive_class: name of the class that is looked for, one of the datalist's ``labels``.
        settings: how mosaics are put together; the defaults if None.
        output: how many are written, and how; the defaults if None.
        base_dir: folder that relative paths of the datalist start at; by default its own.
        progress: wrapper of the sequence of mosaics that may show how far the work is.

    Returns:
        the content of the new datalist; ``distinct_cores`` has the number of different cores of each set.

    Raises:
        FileNotFoundError: if the datalist or an image is missing.
        ValueError: if the datalist is wrong or leaks, a set lacks a class, images cannot be read or differ in
            spacing, or ``out`` holds other mosaics.
    """
    path = Path(datalist)
    out = Path(out)
    settings = settings or MosaicSettings()
    output = output or MosaicOutput()
    source = read_datalist(path)
    label = _find_label(source, positive_class, path)
    items_of = _read_items(source, path, base_dir)
    if output.folds is not None:
        items_of = _divide(items_of, output.folds, settings.seed, names_as_written=read_names_as_written(source))

    named = _name_sources(items_of, path)
    mpp = choose_mpp(list(named.values()), output.to_mpp)
    side = find_side([source.size_at(mpp) for source in named.values()], settings.margin)
    cores_of = _make_cores(items_of, named, label=label, mpp=mpp)
    jobs = _plan_jobs(cores_of, settings, output, side=side, path=path)

    content: dict[str, Any] = {
        "name": f"mosaics of {positive_class}",
        "labels": _name_labels(positive_class, settings.rule),
        "mpp": mpp,
        "mpp_source": "prepare mosaic",
        "distinct_cores": _count_distinct(jobs, positive_class),
        "settings": _describe_settings(path, positive_class, settings, output),
    }
    earlier = _read_earlier(out / "datalist.json", content["settings"])
    writer = _Writer(out, named, content, cache_size=_find_cache_size(settings.grid, side), quality=output.quality)
    for job in progress(jobs):
        writer.write(job)
    content |= _split_items(writer.items_of, output)
    _check_unchanged(earlier, content, out)
    write_whole(out / "cores.csv", format_csv(_HEADER, writer.rows))
    save_datalist(content, out / "datalist.json")
    return content


# ---------------------------------------------------------------------------------------------------------------- cores


def _find_label(content: Mapping[str, Any], positive_class: str, path: Path) -> int:
    """The label of the class that is looked for."""
    labels = content.get("labels")
    fault = find_labels_fault(labels)
    if fault or not labels:
        raise ValueError(f"{path}: {fault or 'it names no classes'}; name them under 'labels', such as 0: benign.")
    for label, name in labels.items():
        if name == positive_class:
            return int(label)
    raise ValueError(f"{path}: '{positive_class}' is none of its classes, which are {', '.join(labels.values())}.")


def _read_items(content: Mapping[str, Any], path: Path, base_dir: str | Path | None) -> dict[str, list[Item]]:
    """The labeled items of each split that the datalist has; ``name`` tells an item from all others."""
    items_of: dict[str, list[Item]] = {}
    for split in SPLITS:
        if not content.get(split):
            continue
        loaded = load_datalist(path, split, base_dir)
        named = []
        for stored, item in zip(content[split], loaded, strict=True):
            if item.get("label") is not None:
                named.append({**item, "name": _name_core(stored)})
        if named:
            items_of[split] = named
    if not items_of:
        raise ValueError(f"{path}: no item of {', '.join(SPLITS)} has a label; mosaics are made of labeled images.")
    return items_of


def _name_core(item: Item) -> str:
    """The path of an item's image in the datalist, and its location if it is a region."""
    location = item.get("location")
    if location is None:
        return item["image"]
    row, col = location
    return f"{item['image']} at row {row}, column {col}"


def _divide(
    items_of: Mapping[str, Sequence[Item]], folds: int, seed: int, *, names_as_written: bool
) -> dict[str, list[Item]]:
    """The items of all splits by fold, whole groups in each."""
    items = [item for of_split in items_of.values() for item in of_split]
    fold_of = divide_items(items, folds, seed or None, names_as_written=names_as_written)
    of_fold: dict[str, list[Item]] = {f"fold{fold}": [] for fold in range(folds)}
    for item, fold in zip(items, fold_of, strict=True):
        of_fold[f"fold{fold}"].append(item)
    return of_fold


def _name_sources(items_of: Mapping[str, Sequence[Item]], path: Path) -> dict[str, CoreSource]:
    """The image of each core, by its name.

    Raises:
        ValueError: if images cannot be used, or two cores are the same pixels, which could come into two sets.
    """
    items = [item for of_set in items_of.values() for item in of_set]
    named: dict[str, CoreSource] = {}
    first_of: dict[tuple[Any, ...], str] = {}
    for item, source in zip(items, open_sources(items, path), strict=True):
        name = item["name"]
        pixels = (source.sha256, source.location, source.size)
        if pixels in first_of:
            raise ValueError(f"{path}: {first_of[pixels]} and {name} are the same pixels; keep one of them.")
        first_of[pixels] = name
        named[name] = source
    return named


def _make_cores(
    items_of: Mapping[str, Sequence[Item]], named: Mapping[str, CoreSource], *, label: int, mpp: float
) -> dict[str, list[Core]]:
    """The cores of each set."""
    cores_of = {}
    for name, items in items_of.items():
        cores = []
        for item in items:
            core = Core(
                name=item["name"],
                group=group_of(item),
                is_positive=item["label"] == label,
                size=named[item["name"]].size_at(mpp),
            )
            cores.append(core)
        cores_of[name] = cores
    return cores_of


# ---------------------------------------------------------------------------------------------------------------- plans


def _plan_jobs(
    cores_of: Mapping[str, Sequence[Core]], settings: MosaicSettings, output: MosaicOutput, *, side: int, path: Path
) -> list[_Job]:
    """All mosaics of all sets."""
    jobs = []
    for stream, (set_name, cores) in enumerate(cores_of.items()):
        number = output.numbers.get(set_name, output.num_test)
        try:
            plans = plan_mosaics(cores, settings, number, side=side, stream=stream)
        except ValueError as error:
            raise ValueError(f"{path}: {set_name}: {error}") from error
        for index, plan in enumerate(plans):
            jobs.append(_Job(set_name, f"{set_name}/{set_name}_{index:04d}", plan))
    return jobs


def _count_distinct(jobs: Iterable[_Job], positive_class: str) -> dict[str, dict[str, int]]:
    """The number of different cores that the mosaics of each set show, of the class and others."""
    names: dict[str, dict[str, set[str]]] = {}
    for job in jobs:
        of_set = names.setdefault(job.set_name, {positive_class: set(), "other": set()})
        for placed in job.plan.cores:
            kind = positive_class if placed.core.is_positive else "other"
            of_set[kind].add(placed.core.name)

    numbers = {}
    for set_name, of_set in names.items():
        numbers[set_name] = {kind: len(of_kind) for kind, of_kind in of_set.items()}
    return numbers


def _name_labels(positive_class: str, rule: str) -> dict[str, str]:
    if rule == "any":
        return {"0": f"no {positive_class}", "1": positive_class}
    return {"0": f"mostly not {positive_class}", "1": f"mostly {positive_class}"}


def _describe_settings(
    path: Path, positive_class: str, settings: MosaicSettings, output: MosaicOutput
) -> dict[str, Any]:
    """What the mosaics depend on, as JSON has it."""
    described = {
        "command": "prepare mosaic",
        "source_sha256": file_sha256(path),
        "class": positive_class,
        **asdict(settings),
        **asdict(output),
    }
    if not settings.centered:
        del described["centered"]  # the settings of folders that are older than it stay equal
    return json.loads(json.dumps(described))  # lists for tuples, to compare with what a file holds


def _split_items(items_of: Mapping[str, Sequence[Item]], output: MosaicOutput) -> dict[str, list[Item]]:
    """The items of each split of the new datalist."""
    if output.folds is None:
        return {name: list(items) for name, items in items_of.items()}
    items: list[Item] = []
    fold_of: list[int] = []
    for fold, of_fold in enumerate(items_of.values()):
        items += of_fold
        fold_of += [fold] * len(of_fold)
    return make_splits(items, fold_of, output.fold)


# ---------------------------------------------------------------------------------------------------------------- files


def _find_cache_size(grid: tuple[int, int], side: int) -> int:
    """How many decoded cores are kept: at least two rows of places, which a strip may touch."""
    return max(2 * grid[1], _CACHE_BYTES // (3 * side**2))


class _Writer:
    """Writes mosaics with their annotations, and collects their items.

    Args:
        out: folder to write to.
        named: the image of each core, by its name.
        content: the new datalist, without items.
        cache_size: number of decoded cores to keep.
        quality: quality of JPEG; None stores the pixels as they are.
    """

    def __init__(
        self,
        out: Path,
        named: Mapping[str, CoreSource],
        content: Mapping[str, Any],
        *,
        cache_size: int,
        quality: int | None,
    ) -> None:
        self.items_of: dict[str, list[Item]] = {}
        self.rows: list[list[Any]] = []
        self._out = out
        self._named = named
        self._mpp: float = content["mpp"]
        self._labels: Mapping[str, str] = content["labels"]
        self._class: str = content["settings"]["class"]
        self._quality = quality
        self._read_core = lru_cache(maxsize=cache_size)(self._decode)

    def _decode(self, name: str) -> np.ndarray:
        return self._named[name].read(self._mpp)

    def write(self, job: _Job) -> None:
        """Write a mosaic, unless it is there, and its annotations.

        Raises:
            ValueError: if another file is there.
            SlideError: if a core cannot be read.
        """
        image = f"{job.name}.tif"
        annotations = f"{job.name}.geojson"
        path = self._out / image
        description = self._describe(job.plan)
        if path.exists():
            _check_description(path, description)
        else:
            write_mosaic(
                path,
                job.plan,
                read_core=self._read_core,
                mpp=self._mpp,
                quality=self._quality,
                description=description,
            )
        collection = _make_annotations(job, self._class)
        write_whole(self._out / annotations, json.dumps(collection, ensure_ascii=False) + "\n")

        num_positive = sum(placed.core.is_positive for placed in job.plan.cores)
        item: Item = {
            "image": image,
            "label": job.plan.label,
            "group": f"cores of {job.set_name}",
            "sha256": file_sha256(path),
            "annotations": annotations,
            "num_cores": len(job.plan.cores),
            "num_positive": num_positive,
            "deciding_share": round(job.plan.deciding_share, 6),
        }
        self.items_of.setdefault(job.set_name, []).append(item)
        self.rows += [_make_row(item, placed) for placed in job.plan.cores]

    def _describe(self, plan: MosaicPlan) -> str:
        """A text that differs for every other mosaic: it is stored in the file."""
        parts: list[Any] = [plan.size, self._mpp, self._quality]
        for placed in plan.cores:
            checksum = self._named[placed.core.name].sha256
            parts.append([placed.core.name, checksum, placed.box, placed.orientation])
        digest = hashlib.sha256(json.dumps(parts).encode())
        return f"monai_jsma mosaic {digest.hexdigest()}"


def _check_description(path: Path, description: str) -> None:
    """Check that a file that is there is the mosaic that is to be written."""
    try:
        with tifffile.TiffFile(path) as tif:
            stored = tif.pages.first.description
    except (tifffile.TiffFileError, OSError) as error:
        raise ValueError(f"{path}: is no mosaic ({error}); remove it, or choose another folder.") from error
    if stored != description:
        raise ValueError(f"{path}: is another image; remove it, or choose another folder.")


def _make_row(item: Item, placed: PlacedCore) -> list[Any]:
    """The row of a core in the table."""
    core = placed.core
    return [
        item["image"],
        item["label"],
        core.name,
        core.group,
        int(core.is_positive),
        int(placed.decides),
        *placed.place,
        *placed.box,
        placed.orientation,
    ]


def _make_annotations(job: _Job, positive_class: str) -> dict[str, Any]:
    """The deciding cores as QuPath objects, in level-0 pixels."""
    features = []
    for placed in job.plan.deciding:
        name = positive_class if placed.core.is_positive else f"not {positive_class}"
        feature = {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{job.name}|{placed.place}")),
            "geometry": {"type": "Polygon", "coordinates": [placed.box.ring]},
            "properties": {
                "objectType": "annotation",
                "name": placed.core.name,
                "classification": {"name": name, "color": _COLOR},
            },
        }
        features.append(feature)
    return {"type": "FeatureCollection", "frame": "canvas", "features": features}


def _read_earlier(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The datalist of an earlier, finished run; None if there is none.

    Raises:
        ValueError: if it was made with other settings; it names the first that differs.
    """
    if not path.exists():
        return None
    earlier = read_datalist(path)
    stored = earlier.get("settings")
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: is no datalist of mosaics; choose another folder.")
    for name, value in settings.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{path}: was made with {name} = {stored.get(name)!r}, not {value!r}; choose another folder."
            )
    return earlier


def _check_unchanged(earlier: Mapping[str, Any] | None, content: Mapping[str, Any], out: Path) -> None:
    """Check that the mosaics of a finished run are still those of its datalist."""
    if earlier is None:
        return
    checksums = {}
    for split in SPLITS:
        for item in earlier.get(split, []):
            checksums[item["image"]] = item.get("sha256")
    for split in SPLITS:
        for item in content.get(split, []):
            if checksums.get(item["image"]) != item["sha256"]:
                raise ValueError(
                    f"{out / item['image']}: has changed since it was written; remove it and give the command again."
                )
