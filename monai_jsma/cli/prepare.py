# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``prepare bach|folder|mosaic|tcga_prad`` makes a datalist; ``synthetic`` makes images with a datalist."""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_jsma._io import Fault, format_csv, format_table, join_few, write_whole
from monai_jsma.cli import Commands, add_command, parse_mpp, parse_number, parse_whole
from monai_jsma.cli.prepare_mosaic import add_mosaic

if TYPE_CHECKING:
    from monai_jsma.datalists.prostate import RegionSettings
    from monai_jsma.slides.frame import Frame

__all__ = ["add_commands", "prepare_bach", "prepare_folder", "prepare_tcga_prad", "write_synthetic"]


def add_commands(commands: Commands) -> None:
    """Add ``synthetic`` and ``prepare``."""
    _add_synthetic(commands)

    summary = "Make a datalist of images or slides on disk."
    prepare = commands.add_parser("prepare", help=summary, description=summary)
    sources = prepare.add_subparsers(metavar="SOURCE", required=True)
    _add_bach(sources)
    _add_folder(sources)
    add_mosaic(sources)
    _add_tcga_prad(sources)


def _add_split_options(parser: argparse.ArgumentParser, *, held_out: str, min_folds: int) -> None:
    parser.add_argument(
        "--folds", type=parse_whole(min_folds), default=5, metavar="K", help="number of folds (default: %(default)s)"
    )
    parser.add_argument(
        "--fold",
        type=parse_whole(),
        default=0,
        metavar="F",
        help=f"fold to {held_out} on, from 0 (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=parse_whole(), default=0, metavar="S", help="random seed of the split (default: %(default)s)"
    )
    _add_names_option(parser)


def _add_names_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--names-as-written",
        action="store_true",
        help="names that differ in spelling only, such as patients 001 and 1, are different ones (default: an error)",
    )


def _format_splits(content: Mapping[str, Any]) -> str:
    """A table of a datalist: the number of images of each class, and of groups, in each split."""
    from monai_jsma.datalists.splits import SPLITS, group_of

    class_names = list(content["labels"].values())
    some_unlabelled = any("label" not in item for split in SPLITS for item in content[split])
    header = ["", *class_names]
    if some_unlabelled:
        header.append("unlabelled")
    rows = [[*header, "groups"]]

    for split in SPLITS:
        counts: Counter[int | None] = Counter()
        for item in content[split]:
            label = item.get("label")
            counts.update(label if isinstance(label, list) else [label])
        row = [split]
        for label in range(len(class_names)):
            row.append(str(counts[label]))
        if some_unlabelled:
            row.append(str(counts[None]))
        groups = {group_of(item) for item in content[split]}
        rows.append([*row, str(len(groups))])
    return "\n".join(format_table(rows))


def _add_bach(sources: Commands) -> None:
    summary = "Make a datalist of the unzipped ICIAR 2018 BACH challenge; its unlabelled images become the test split."
    parser = add_command(sources, "bach", prepare_bach, summary=summary)
    parser.add_argument(
        "root", type=Path, metavar="ROOT", help="the folder ICIAR2018_BACH_Challenge, or a folder above it"
    )
    parser.add_argument(
        "--test",
        type=Path,
        metavar="DIR",
        help="folder of the unlabelled images (default: searched in and beside ROOT)",
    )
    parser.add_argument(
        "--patients",
        type=Path,
        metavar="CSV",
        help="table with columns image and patient; all images of a patient then go to the same split",
    )
    parser.add_argument(
        "--tiled",
        type=Path,
        metavar="OUT",
        help="write all images as lossless tiled pyramids to OUT, and list these; an interrupted run continues",
    )
    parser.add_argument(
        "--out", type=Path, metavar="JSON", help="datalist to write (default: datalist.json in OUT, else in ROOT)"
    )
    _add_split_options(parser, held_out="validate", min_folds=2)


def prepare_bach(args: argparse.Namespace) -> None:
    """Write the datalist of the BACH challenge and print the size of its splits."""
    from monai_jsma.datalists.bach import bach_datalist
    from monai_jsma.datalists.schema import save_datalist

    content = bach_datalist(
        args.root,
        test=args.test,
        patients=args.patients,
        folds=args.folds,
        fold=args.fold,
        seed=args.seed,
        tiled=args.tiled,
        names_as_written=args.names_as_written,
    )
    folder = args.tiled or args.root
    path = save_datalist(content, args.out or folder / "datalist.json")
    print(_format_splits(content))
    print(path)


def _add_folder(sources: Commands) -> None:
    summary = "Make a datalist of images or slides with labels, split by group."
    parser = add_command(sources, "folder", prepare_folder, summary=summary)
    parser.add_argument(
        "root",
        type=Path,
        metavar="ROOT",
        help="folder with a table labels.csv or with a folder for each class, or the table itself; "
        "paths are relative to it",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="table with columns image, label and, if known, group or patient, mpp, sha256 "
        "(default: ROOT/labels.csv; without it each folder is a class)",
    )
    parser.add_argument("--out", type=Path, metavar="JSON", help="datalist to write (default: ROOT/datalist.json)")
    parser.add_argument(
        "--mpp",
        type=parse_mpp,
        metavar="UM",
        help="um per pixel, where the table does not give it (default: as each file states)",
    )
    parser.add_argument(
        "--class-order",
        action="append",
        metavar="A,B,C",
        help="class names in the order of their numbers (default: sorted, numbers by value); a name with a comma in "
        "double quotes, as in CSV: 'benign,\"Gleason 4,5\"'; may be repeated, which continues the list",
    )
    parser.add_argument(
        "--multi-label",
        action="store_true",
        help="an image may have several classes, or none: label holds their names with a semicolon between them",
    )
    parser.add_argument(
        "--label-columns",
        action="append",
        metavar="A,B,C",
        help="instead of label: columns of the table with 1 or 0, each a class that an image may have (multi-label)",
    )
    _add_split_options(parser, held_out="test", min_folds=3)


def prepare_folder(args: argparse.Namespace) -> None:
    """Write the datalist of a folder or table and print the size of its splits."""
    from monai_jsma.datalists.folder import folder_datalist
    from monai_jsma.datalists.schema import save_datalist

    class_order = _parse_names(args.class_order) if args.class_order else None
    label_columns = _parse_names(args.label_columns, option="--label-columns") if args.label_columns else ()
    if class_order and label_columns:
        raise ValueError("--label-columns gives the classes in their order; leave --class-order out.")
    content = folder_datalist(
        args.root,
        args.labels,
        mpp=args.mpp,
        folds=args.folds,
        fold=args.fold,
        seed=args.seed,
        class_order=class_order,
        names_as_written=args.names_as_written,
        multi_label=args.multi_label,
        label_columns=label_columns,
    )
    folder = args.root if args.root.is_dir() else args.root.parent
    path = save_datalist(content, args.out or folder / "datalist.json")
    print(_format_splits(content))
    print(path)


def _parse_names(texts: Sequence[str], *, option: str = "--class-order") -> list[str]:
    """The names in lists with commas, where a name that has a comma is in double quotes.

    Raises:
        ValueError: if a list has a name without letters, or a quote that does not end.
    """
    names = []
    for text in texts:
        try:
            line = next(csv.reader([text], skipinitialspace=True, strict=True), [])
        except csv.Error as error:
            raise ValueError(
                f"{option} {text}: {error}; write a name with a comma in double quotes, as in CSV."
            ) from error
        stripped = [name.strip() for name in line]
        if not stripped or not all(stripped):
            raise ValueError(f"{option} {text}: a class has no name; leave no comma without a name.")
        names += stripped
    return names


def _add_tcga_prad(sources: Commands) -> None:
    summary = "Make a datalist of regions inside the annotations of prostate slides, balanced, split by patient."
    parser = add_command(sources, "tcga_prad", prepare_tcga_prad, summary=summary)
    parser.add_argument("slides", type=Path, metavar="SLIDES", help="folder of slides; image paths are relative to it")
    parser.add_argument(
        "annotations",
        type=Path,
        metavar="ANNOTATIONS",
        help="folder of QuPath GeoJSON, ImageScope XML or CSV of boxes, named as their slides; or one file",
    )
    parser.add_argument("--out", type=Path, metavar="JSON", help="datalist to write (default: SLIDES/datalist.json)")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="NAME=CLASS",
        help="class of an annotated name: benign, 'Gleason 3', 'Gleason 4/5' or ignore; may be repeated",
    )
    _add_region_options(parser)
    _add_names_option(parser)
    parser.add_argument("--strict", action="store_true", help="write no datalist if any slide or annotation fails")


def _add_region_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--size-um",
        type=parse_number,
        default=2000.0,
        metavar="UM",
        help="side of a region in um (default: %(default)g)",
    )
    add(
        "--cover",
        type=parse_number,
        default=0.5,
        metavar="SHARE",
        help="smallest share of a region inside its class (default: %(default)s)",
    )
    add(
        "--per-slide",
        type=parse_whole(1),
        default=12,
        metavar="N",
        help="maximum number of regions of a slide (default: %(default)s)",
    )
    add(
        "--per-class",
        type=parse_whole(1),
        default=95,
        metavar="N",
        help="maximum number of regions of a class (default: %(default)s)",
    )
    add("--mpp", type=parse_mpp, metavar="UM", help="um per pixel of all slides, in place of what the files state")
    add(
        "--frame",
        choices=("bounds", "canvas"),
        help="corner that annotations count from, in slides whose image lies on a larger canvas: of the image, as in "
        "QuPath (bounds), or of level 0 (canvas) (default: bounds for GeoJSON, canvas for XML and CSV)",
    )
    add(
        "--folds",
        type=parse_whole(3),
        default=5,
        metavar="K",
        help="number of folds of patients (default: %(default)s)",
    )
    add("--fold", type=parse_whole(), default=0, metavar="F", help="fold to test on, from 0 (default: %(default)s)")
    add(
        "--seed",
        type=parse_whole(),
        default=0,
        metavar="S",
        help="random seed of the regions' locations, of their choice and of the split (default: %(default)s)",
    )


def prepare_tcga_prad(args: argparse.Namespace) -> None:
    """Write the datalist and the table of failures, and print the size of the splits."""
    from monai_jsma.datalists.prostate import class_mapping, gather_cohort
    from monai_jsma.datalists.schema import save_datalist

    out = args.out or args.slides / "datalist.json"
    failed = out.parent / "failed.csv"
    cohort = gather_cohort(
        args.slides,
        args.annotations,
        settings=_region_settings(args),
        mapping=class_mapping(args.map),
        skip=(out, failed),
    )
    _print_frames(cohort.num_areas)
    rows = [(fault.where, fault.stage, fault.line) for fault in cohort.faults]
    write_whole(failed, format_csv(("slide", "stage", "reason"), rows))

    is_written = not (cohort.faults and args.strict)
    if is_written:
        content = cohort.datalist(names_as_written=args.names_as_written)
        save_datalist(content, out)
        _print_cohort(content)
        print(out)
    if cohort.faults:
        rest = "the datalist holds the rest" if is_written else "no datalist was written"
        raise ValueError(f"{_count_faults(cohort.faults)}, listed in {failed}; {rest}.")


def _count_faults(faults: Sequence[Fault]) -> str:
    """How many slides, annotations and objects failed; the first objects are named."""
    objects = [fault for fault in faults if fault.stage == "object"]
    parts = []
    if len(faults) > len(objects):
        parts.append(f"{len(faults) - len(objects)} slides or annotations failed")
    if objects:
        names = join_few(f"{fault.where} {fault.item}" for fault in objects)
        parts.append(f"{len(objects)} annotated objects were left out ({names})")
    return " and ".join(parts)


def _print_frames(num_areas: Mapping[Frame, int]) -> None:
    """Say from where the annotations were counted, if that makes a difference."""
    from monai_jsma.slides.frame import FRAME_NAMES

    for frame, number in sorted(num_areas.items()):
        print(f"{number} areas of slides with a canvas count from {FRAME_NAMES[frame]}; --frame says otherwise")


def _region_settings(args: argparse.Namespace) -> RegionSettings:
    from monai_jsma.datalists.prostate import RegionSettings

    return RegionSettings(
        size_um=args.size_um,
        cover=args.cover,
        per_slide=args.per_slide,
        per_class=args.per_class,
        mpp=args.mpp,
        folds=args.folds,
        fold=args.fold,
        seed=args.seed,
        frame=args.frame,
    )


def _print_cohort(content: Mapping[str, Any]) -> None:
    print(_format_splits(content))
    placed = [f"{number} {name}" for name, number in content["placed"].items()]
    print(f"placed: {', '.join(placed)}")
    unknown = [f"{name} ({number})" for name, number in sorted(content["unknown"].items())]
    if unknown:
        print(f"not used, as --map names no class for them: {', '.join(unknown)}")


_SLIDE_OPTIONS = {
    "regions": "number of regions of 256 pixels along each side of a slide, 2 to 512 (default: 16)",
    "tissue": "share of the regions that is tissue (default: 0.5)",
    "informative": "share of the tissue that shows the class; as much looks like it (default: 0.1)",
    "variants": "number of different regions of each kind in a slide (default: 16)",
}


def _add_synthetic(commands: Commands) -> None:
    summary = "Make images or whole slides whose class is visible at one known magnification and location only."
    parser = add_command(commands, "synthetic", write_synthetic, summary=summary)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write the images and datalist.json to")
    for option, split, number in (("train", "training", 320), ("validation", "validation", 80), ("test", "test", 80)):
        text = f"number of {split} images (default: {number})"
        parser.add_argument(f"--{option}", type=parse_whole(1), default=number, metavar="N", help=text)
    parser.add_argument(
        "--seed",
        type=parse_whole(),
        default=0,
        metavar="S",
        help="random seed; equal seeds give equal files (default: 0)",
    )
    parser.add_argument(
        "--task",
        choices=("sparse", "dense", "mixed", "digits", "slides"),
        default="sparse",
        help="what shows the class: one cell (sparse), half of the cells (dense), one cell of a magnification that "
        "differs between images (mixed), a handwritten digit in one cell (digits), some regions of a whole slide "
        "(slides) (default: sparse)",
    )
    parser.add_argument(
        "--level",
        type=int,
        choices=(0, 1, 2),
        default=1,
        help="true magnification: 50X, 100X or 200X; not for mixed (default: 1)",
    )
    parser.add_argument(
        "--classes",
        type=parse_whole(2),
        metavar="C",
        help="number of classes (default: all, which are 4, or 10 for digits; 2 for slides)",
    )
    slides = parser.add_argument_group("of --task slides")
    for option, text in _SLIDE_OPTIONS.items():
        is_share = text.startswith("share")
        parse = parse_number if is_share else parse_whole(1)
        slides.add_argument(f"--{option}", type=parse, metavar="SHARE" if is_share else "N", help=text)


def write_synthetic(args: argparse.Namespace) -> None:
    """Write the images and print the path of their datalist."""
    if args.task == "slides":
        _write_slides(args)
        return
    from monai_jsma.datalists.synthetic import make_dataset

    for option in _SLIDE_OPTIONS:
        if getattr(args, option) is not None:
            raise ValueError(f"--{option} is of slides: give --task slides, or leave it out.")
    datalist = make_dataset(
        args.out,
        num_train=args.train,
        num_validation=args.validation,
        num_test=args.test,
        seed=args.seed,
        task=args.task,
        level=args.level,
        num_classes=args.classes,
    )
    print(f"{datalist}: {args.train} training, {args.validation} validation and {args.test} test images")


def _write_slides(args: argparse.Namespace) -> None:
    from monai_jsma.datalists.synthetic_slides import SlideSettings, make_slides

    given: dict[str, Any] = {"level": args.level}
    for option in _SLIDE_OPTIONS:
        value = getattr(args, option)
        if value is not None:
            given["side" if option == "regions" else option] = value
    datalist = make_slides(
        args.out,
        num_train=args.train,
        num_validation=args.validation,
        num_test=args.test,
        seed=args.seed,
        num_classes=2 if args.classes is None else args.classes,
        settings=SlideSettings(**given),
    )
    print(f"{datalist}: {args.train} training, {args.validation} validation and {args.test} test slides")
