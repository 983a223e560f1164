# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``info FILE``: what a picture or slide is, who reads it and why, how large its pixels are, what it can serve.

Sizes are (height, width) in pixels, spacings um per pixel (mpp).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_jsma.cli import Commands, add_command
from monai_jsma.cli.bundles import read_config
from monai_jsma.cli.verify import magnification, split_names

if TYPE_CHECKING:
    from monai_jsma.slides.base import SlideInfo

__all__ = ["add_parser", "report", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command."""
    summary = "Tell what a picture or slide is, which reader gets it and why, and which magnifications it can serve."
    parser = add_command(commands, "info", run, summary=summary)
    parser.add_argument("file", type=Path, metavar="FILE", help="a picture or slide")
    parser.add_argument("--mpp", type=float, help="um per pixel, if better known than the file states it")
    parser.add_argument("--reader", metavar="NAME", help="insist on cucim, tifffile, openslide or pil")
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--bundle", type=Path, metavar="DIR", help="ask for the magnifications of this bundle")
    wanted.add_argument("--magnifications", metavar="A,B,C", help="ask for these: 50X,100X,200X or um per pixel")
    wanted.add_argument(
        "--finest", metavar="A", help="ask for those that the rule chooses from this one on (default: the file's own)"
    )
    parser.add_argument(
        "--patch-size", type=int, metavar="N", help="pixels of a patch (default: that of the bundle, else 299)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Look at the file, read one patch of it, and print what was found."""
    from monai_jsma.datalists.item_regions import read_region
    from monai_jsma.slides.open import inspect_slide

    settings = bundle_settings(args.bundle) if args.bundle else {}
    asked = settings.get("magnifications") or split_names(args.magnifications)
    info = inspect_slide(args.file, reader=args.reader, mpp=args.mpp)
    read_region(info, ((0, 0), info.size))
    if info.mpp is None and settings.get("mpp"):
        info = replace(info, mpp=settings["mpp"], mpp_source=f"default of {args.bundle}")
    patch_size = args.patch_size or settings.get("patch_size", 299)
    content = report(info, asked or _chosen(info, patch_size, args.finest), patch_size)
    content["chosen_by_rule"] = not asked
    print(json.dumps(content, indent=2, ensure_ascii=False) if args.json else "\n".join(_lines(content)))


def _chosen(info: SlideInfo, patch_size: int, finest: str | None) -> Sequence[float]:
    """The automatic magnifications of the whole file; none where its spacing is unknown."""
    from monai_jsma.geometry import automatic_magnifications

    wanted = magnification(finest) if finest else None
    return () if info.mpp is None else automatic_magnifications(info.size, info.mpp, patch_size, finest=wanted)


def bundle_settings(folder: Path) -> dict[str, Any]:
    """``magnifications``, ``patch_size`` and ``mpp`` of a bundle's ``train.json``.

    Raises:
        FileNotFoundError: when there is no such bundle.
        ValueError: when it does not hold one of them.
    """
    parser = read_config(folder)
    names = ("magnifications", "patch_size", "mpp")
    missing = [name for name in names if name not in parser]
    if missing:
        raise ValueError(
            f"{folder / 'configs' / 'train.json'}: has no '{missing[0]}'; give --magnifications instead of --bundle."
        )
    return {name: parser.get_parsed_content(name) for name in names}


def report(info: SlideInfo, magnifications: Sequence[float | str], patch_size: int) -> dict[str, Any]:
    """All that ``info`` prints, as plain values.

    Args:
        info: what was found in the file.
        magnifications: to ask for, in um per pixel or names ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
    """
    full = info.size
    levels = [
        {
            "height": height,
            "width": width,
            "downsample": (full[0] / height + full[1] / width) / 2,
            "mpp": info.mpp and info.mpp * (full[0] / height + full[1] / width) / 2,
        }
        for height, width in info.level_sizes
    ]
    served = _served(info, magnifications, patch_size)
    return {
        "path": info.path,
        "bytes": info.stamp[0],
        "reader": info.reader,
        "reason": info.reason,
        "lazy": info.lazy,
        "levels": levels,
        "mpp": info.mpp,
        "mpp_source": info.mpp_source,
        "spacings": [_stated(info, spacing) for spacing in info.spacings],
        "patch_size": patch_size,
        "magnifications": served,
        "cells": sum(entry["cells"] for entry in served),
    }


def _stated(info: SlideInfo, spacing: Any) -> dict[str, Any]:
    """One statement of the file about its pixels, and what was made of it."""
    from monai_jsma.slides.spacing import differ

    verdict = f"rejected: {spacing.refusal}" if spacing.refusal else "agrees"
    if not spacing.refusal and info.mpp is not None and differ(spacing.mpp, info.mpp):
        verdict = f"disagrees: {spacing.mpp / info.mpp:.3g} times {info.mpp_source}"
    elif spacing.source == info.mpp_source:
        verdict = "used"
    return {"source": spacing.source, "text": str(spacing), "verdict": verdict}


def _served(info: SlideInfo, magnifications: Sequence[float | str], patch_size: int) -> list[dict[str, Any]]:
    """Per magnification, coarse to fine: whether the file is fine enough, its grid and the number of its cells."""
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


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    mpp = content["mpp"]
    known = f"{mpp:.5g} um/px ({content['mpp_source']})" if mpp else "unknown; give --mpp, or 'mpp' in the datalist"
    yield f"file     {content['path']} ({content['bytes']:,} bytes)"
    yield f"reader   {content['reader']}: {content['reason']}"
    yield f"pixels   {'read from the file as needed' if content['lazy'] else 'decoded whole to memory'}"
    yield f"spacing  {known}"
    yield from (f"         {spacing['text']}: {spacing['verdict']}" for spacing in content["spacings"])
    yield ""
    rows = [("level", "height", "width", "downsample", "um/px")]
    for i, level in enumerate(content["levels"]):
        spacing = f"{level['mpp']:.5g}" if level["mpp"] else "?"
        rows.append((str(i), str(level["height"]), str(level["width"]), f"{level['downsample']:.5g}", spacing))
    yield from _table(rows)
    if content["magnifications"]:
        yield ""
        rows = [("magnification", "um/px", "served", "grid", "cells")]
        for entry in content["magnifications"]:
            grid = "x".join(map(str, entry["grid"])) if entry["served"] else "-"
            answer = "yes" if entry["served"] else "no"
            rows.append((entry["name"], f"{entry['mpp']:.5g}", answer, grid, str(entry["cells"])))
        notes = ["", *(entry.get("reason", "") for entry in content["magnifications"])]
        yield from (f"{line}  {note}".rstrip() for line, note in zip(_table(rows), notes))
        rule = "; chosen by rule: halved until one patch covers the picture" if content["chosen_by_rule"] else ""
        yield f"{content['cells']} cells in all, with patches of {content['patch_size']} pixels{rule}"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    yield from ("  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows)
