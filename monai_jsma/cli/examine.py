# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``info FILE`` describes an image or slide; ``verify DATALIST`` checks all files, labels and groups of a datalist.

Sizes are (height, width) in pixels, spacings are in um per pixel (mpp).
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_jsma._io import format_table, write_whole
from monai_jsma.cli import Commands, add_command, parse_mpp, parse_whole, show_progress
from monai_jsma.cli.bundles import read_config

if TYPE_CHECKING:
    from monai_jsma.slides.base import SlideInfo
    from monai_jsma.slides.spacing import StatedSpacing

__all__ = ["add_commands", "describe_file", "print_info", "verify_files"]

_DEFAULT_PATCH_SIZE = 299


def add_commands(commands: Commands) -> None:
    """Add ``info`` and ``verify``."""
    _add_info(commands)
    _add_verify(commands)


def parse_magnification(text: str) -> float | str:
    """A name such as "100X" unchanged, any other text as um per pixel.

    Raises:
        ValueError: if it is neither a name nor a number.
    """
    if text.endswith(("x", "X")):
        return text
    if re.fullmatch(r"\d+,\d+", text):
        raise ValueError(f"'{text}' is no magnification; write a decimal point: {text.replace(',', '.')}.")
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"'{text}' is no magnification: give um per pixel (1.0) or a name ('100X').") from error


def parse_magnifications(text: str | None) -> list[float | str]:
    """The magnifications of a list separated by commas; none if the option is missing.

    Raises:
        ValueError: if one is none, or the commas are likely decimal ones.
    """
    from monai_jsma.geometry import may_be_decimal_commas

    if not text:
        return []
    parts = [part.strip() for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isdecimal()]
    if len(numbers) == len(parts) and may_be_decimal_commas(numbers):
        as_meant = ",".join(f"{number}.0" for number in numbers)
        way_out = "" if 0 in numbers else f", or {as_meant} if they are meant"
        raise ValueError(
            f"--magnifications {text}: commas separate magnifications, and these look like parts of decimal numbers; "
            f"write decimal points, such as {'.'.join(parts[:2])}{way_out}."
        )
    return [parse_magnification(part) for part in parts]


def _add_info(commands: Commands) -> None:
    summary = "Show what a file is, which reader it gets and why, and which magnifications it can serve."
    parser = add_command(commands, "info", print_info, summary=summary)
    parser.add_argument("file", type=Path, metavar="FILE", help="an image or slide")
    parser.add_argument(
        "--mpp", type=parse_mpp, metavar="UM", help="um per pixel, if better known than the file states it"
    )
    parser.add_argument(
        "--reader",
        metavar="NAME",
        help="reader to use: cucim, tifffile, openslide or pil (default: the first that can)",
    )
    magnifications = parser.add_mutually_exclusive_group()
    magnifications.add_argument("--bundle", type=Path, metavar="DIR", help="test the magnifications of this bundle")
    magnifications.add_argument(
        "--magnifications", metavar="A,B,C", help="test these magnifications: 50X,100X,200X or um per pixel"
    )
    magnifications.add_argument(
        "--finest",
        metavar="A",
        help="test the magnifications that the rule chooses, A being the finest (default: the file's own)",
    )
    parser.add_argument(
        "--patch-size",
        type=parse_whole(1),
        metavar="N",
        help=f"height and width of a patch in pixels (default: as in the bundle, else {_DEFAULT_PATCH_SIZE})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def print_info(args: argparse.Namespace) -> None:
    """Inspect a file, read one patch of it, and print its description."""
    from monai_jsma.datalists.verify import read_region
    from monai_jsma.slides.open import inspect_slide, known_mpp

    settings = _read_bundle_settings(args.bundle) if args.bundle else {}
    magnifications = settings.get("magnifications") or parse_magnifications(args.magnifications)
    finest = parse_magnification(args.finest) if args.finest else None

    info = inspect_slide(args.file, reader=args.reader, mpp=args.mpp)
    read_region(info, (0, 0), info.size)
    if info.mpp is None and settings.get("mpp"):
        mpp, _ = known_mpp(info, settings["mpp"])  # warns where the file's own is turned down
        info = replace(info, mpp=mpp, mpp_source=f"default of {args.bundle}")

    patch_size = args.patch_size or settings.get("patch_size", _DEFAULT_PATCH_SIZE)
    is_chosen = not magnifications
    if is_chosen:
        magnifications = _choose_magnifications(info, patch_size, finest)
    content = describe_file(info, magnifications, patch_size)
    content["chosen_by_rule"] = is_chosen
    if args.json:
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_format_description(content)))


def _read_bundle_settings(folder: Path) -> dict[str, Any]:
    """``magnifications``, ``patch_size`` and ``mpp`` of a bundle's ``train.json``."""
    parser = read_config(folder)
    settings = {}
    for name in ("magnifications", "patch_size", "mpp"):
        if name not in parser:
            file = folder / "configs" / "train.json"
            raise ValueError(f"{file}: has no '{name}'; give --magnifications instead of --bundle.")
        settings[name] = parser.get_parsed_content(name)
    return settings


def _choose_magnifications(info: SlideInfo, patch_size: int, finest: float | str | None) -> Sequence[float]:
    """The automatic magnifications of the whole file; none if its spacing is unknown."""
    from monai_jsma.geometry import automatic_magnifications

    if info.mpp is None:
        return ()
    return automatic_magnifications(info.size, info.mpp, patch_size, finest=finest)


def describe_file(info: SlideInfo, magnifications: Sequence[float | str], patch_size: int) -> dict[str, Any]:
    """All that ``info`` prints, as values for JSON.

    Args:
        info: result of inspecting the file.
        magnifications: magnifications to test, in um per pixel or by name ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
    """
    tested = _describe_magnifications(info, magnifications, patch_size)
    return {
        "path": info.path,
        "bytes": info.stamp[0],
        "reader": info.reader,
        "reason": info.reason,
        "lazy": info.lazy,
        "levels": _describe_levels(info),
        "bounds": None if info.bounds is None else list(info.bounds),
        "mpp": info.mpp,
        "mpp_source": info.mpp_source,
        "spacings": [_describe_spacing(info, spacing) for spacing in info.spacings],
        "patch_size": patch_size,
        "magnifications": tested,
        "cells": sum(entry["cells"] for entry in tested),
    }


def _describe_levels(info: SlideInfo) -> list[dict[str, Any]]:
    full_height, full_width = info.size
    levels = []
    for height, width in info.level_sizes:
        downsample = (full_height / height + full_width / width) / 2
        mpp = info.mpp * downsample if info.mpp else None
        levels.append({"height": height, "width": width, "downsample": downsample, "mpp": mpp})
    return levels


def _describe_spacing(info: SlideInfo, spacing: StatedSpacing) -> dict[str, str]:
    """One statement of the file about its spacing, and whether it is believed."""
    from monai_jsma.slides.spacing import differ

    if spacing.refusal:
        verdict = f"rejected: {spacing.refusal}"
    elif info.mpp is not None and differ(spacing.mpp, info.mpp):
        verdict = f"disagrees: {spacing.mpp / info.mpp:.3g} times {info.mpp_source}"
    elif spacing.source == info.mpp_source:
        verdict = "used"
    else:
        verdict = "agrees"
    return {"source": spacing.source, "text": str(spacing), "verdict": verdict}


def _describe_magnifications(
    info: SlideInfo, magnifications: Sequence[float | str], patch_size: int
) -> list[dict[str, Any]]:
    """For each magnification, coarse to fine: whether the file is fine enough, its grid and its number of cells."""
    from monai_jsma.geometry import Magnification, PatchGeometry, check_fine_enough, to_mpp

    entries = []
    for mpp in sorted(map(to_mpp, magnifications), reverse=True):
        entry: dict[str, Any] = {"name": Magnification(mpp).name, "mpp": mpp, "served": False, "grid": None, "cells": 0}
        entries.append(entry)
        if info.mpp is None:
            entry["reason"] = "the spacing of the file is unknown; give --mpp"
            continue
        try:
            check_fine_enough(info.mpp, mpp, path=info.path, mpp_source=info.mpp_source)
        except ValueError:
            entry["reason"] = f"finer than the file's {info.mpp:g} um/px"
            continue

        geometry = PatchGeometry(info.size, info.mpp, (mpp,), patch_size)
        entry.update(served=True, grid=list(geometry.grids[0]), cells=geometry.num_cells)
    return entries


def _format_description(content: Mapping[str, Any]) -> list[str]:
    spacing = "unknown; give --mpp, or 'mpp' in the datalist"
    if content["mpp"]:
        spacing = f"{content['mpp']:.5g} um/px ({content['mpp_source']})"
    lines = [
        f"file     {content['path']} ({content['bytes']:,} bytes)",
        f"reader   {content['reader']}: {content['reason']}",
        f"pixels   {'read from the file as needed' if content['lazy'] else 'the whole image is decoded into memory'}",
    ]
    if content["bounds"]:
        row, col, height, width = content["bounds"]
        lines.append(f"image    {height} x {width} pixels from row {row}, column {col} of the canvas, which is level 0")
    lines.append(f"spacing  {spacing}")
    for statement in content["spacings"]:
        lines.append(f"         {statement['text']}: {statement['verdict']}")

    lines += ["", *_format_levels(content["levels"])]
    if content["magnifications"]:
        lines += ["", *_format_magnifications(content["magnifications"])]
        rule = "; chosen by rule: halved until one patch covers the image" if content["chosen_by_rule"] else ""
        lines.append(f"{content['cells']} cells in all, with patches of {content['patch_size']} pixels{rule}")
    return lines


def _format_levels(levels: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [("level", "height", "width", "downsample", "um/px")]
    for number, level in enumerate(levels):
        downsample = f"{level['downsample']:.5g}"
        mpp = f"{level['mpp']:.5g}" if level["mpp"] else "?"
        rows.append((str(number), str(level["height"]), str(level["width"]), downsample, mpp))
    return format_table(rows)


def _format_magnifications(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [("magnification", "um/px", "served", "grid", "cells")]
    for entry in entries:
        served = "no"
        grid = "-"
        if entry["served"]:
            served = "yes"
            grid = "x".join(map(str, entry["grid"]))
        mpp = f"{entry['mpp']:.5g}"
        rows.append((entry["name"], mpp, served, grid, str(entry["cells"])))

    header, *lines = format_table(rows)
    annotated = [header]
    for line, entry in zip(lines, entries, strict=True):
        reason = entry.get("reason", "")
        annotated.append(f"{line}  {reason}".rstrip())
    return annotated


def _add_verify(commands: Commands) -> None:
    summary = "Check every file, region, label, mask, checksum and group of a datalist; not for pen marks or blur."
    parser = add_command(commands, "verify", verify_files, summary=summary)
    parser.add_argument("datalist", type=Path, metavar="DATALIST", help="the JSON file")
    parser.add_argument(
        "--base-dir", type=Path, metavar="DIR", help="folder of relative image paths (default: that of the datalist)"
    )
    parser.add_argument(
        "--mpp",
        type=parse_mpp,
        metavar="UM",
        help="um per pixel of images whose spacing neither the datalist nor the file states",
    )
    parser.add_argument(
        "--magnifications",
        metavar="A,B,C",
        help="magnifications that all files must be fine enough for: 50X,100X or um per pixel",
    )
    parser.add_argument(
        "--read",
        choices=("patch", "all"),
        default="patch",
        help="read one patch of each region, or all pixels of all levels (default: %(default)s)",
    )
    parser.add_argument(
        "--failed", type=Path, metavar="CSV", help="table of the faults to write (default: failed.csv at the datalist)"
    )


def verify_files(args: argparse.Namespace) -> int:
    """Check a datalist, write the table of faults and print how many there are; 1 if there is any."""
    from monai_jsma.datalists.verify import fault_table, verify_datalist

    table = args.failed or args.datalist.parent / "failed.csv"
    _check_writable(table)
    faults, num_items = verify_datalist(
        args.datalist,
        args.base_dir,
        mpp=args.mpp,
        magnifications=parse_magnifications(args.magnifications),
        everything=args.read == "all",
        progress=show_progress,
    )
    write_whole(table, fault_table(faults))
    if not faults:
        print(f"{args.datalist}: {num_items} items, no fault")
        return 0
    num_faulty = len({fault.item for fault in faults if fault.item})
    print(
        f"{args.datalist}: {len(faults)} faults in {num_faulty} of {num_items} items ({_count_stages(faults)}); "
        f"all of them are in {table}"
    )
    return 1


def _check_writable(file: Path) -> None:
    """An error now, not after hours of reading."""
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{file}: cannot be written; name another file with --failed.")


def _count_stages(faults: Sequence[Any]) -> str:
    from monai_jsma.datalists.verify import STAGES

    counts = Counter(fault.stage for fault in faults)
    return ", ".join(f"{stage} {counts[stage]}" for stage in STAGES if counts[stage])
