# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``compare`` and ``crossval`` train and test variants of a bundle.

Each run has a folder ``VARIANT/seedS/foldF`` for its models, logs and predictions. The same command continues what was
interrupted. Afterwards the records are asked whether each control did what it is called.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_jsma._io import join_few, write_whole
from monai_jsma.cli import Commands, add_command, parse_whole
from monai_jsma.cli.bundles import (
    TrainingRun,
    add_bundle_option,
    add_overlay_option,
    add_value_option,
    find_configs,
    finish_runs,
    parse_seeds,
    parse_values,
    read_config,
)
from monai_jsma.cli.variants import Variant, can_be_certified, is_on_tissue, make_variants

if TYPE_CHECKING:
    from monai_jsma.predictions.records import PredictionRecord
    from monai_jsma.report.experiment import RunFiles

__all__ = ["add_commands", "train_variants"]

Runs = dict[tuple[str, int, int], TrainingRun]  # by variant, seed and fold


def add_commands(commands: Commands) -> None:
    """Add ``compare`` and ``crossval``."""
    _add_compare(commands)
    _add_crossval(commands)


def _add_compare(commands: Commands) -> None:
    summary = "Train and test variants of a bundle on a datalist's own split, such as each single magnification."
    parser = add_command(commands, "compare", train_variants, summary=summary)
    _add_variant_options(parser, variants=["multi", "single"], out="compare")
    parser.add_argument("--test-list", default="test", metavar="NAME", help="split to test on (default: %(default)s)")
    parser.set_defaults(folds=None, no_validation=False, test_folds=None)


def _add_crossval(commands: Commands) -> None:
    summary = "Train and test a bundle on every fold of a datalist, split by group, with one or more seeds."
    parser = add_command(commands, "crossval", train_variants, summary=summary)
    _add_variant_options(parser, variants=["multi"], out="crossval")
    parser.add_argument(
        "--folds", type=parse_whole(2), default=5, metavar="K", help="number of folds (default: %(default)s)"
    )
    parser.add_argument(
        "--split-seed",
        type=parse_whole(),
        metavar="S",
        help="random seed of the folds (default: keep the folds of the datalist, if it has as many; else 0)",
    )
    parser.add_argument(
        "--test-folds", metavar="A,B,C", help="test on these folds only, counted from 0 (default: on all)"
    )
    parser.add_argument(
        "--no-validation",
        action="store_true",
        help="train on all other folds, and keep the model that fits the training images best: for few groups",
    )
    parser.set_defaults(test_list="test")


def _add_variant_options(parser: argparse.ArgumentParser, *, variants: list[str], out: str) -> None:
    parser.add_argument("datalist", type=Path, metavar="DATALIST", help="the JSON file")
    add_bundle_option(parser)
    parser.add_argument(
        "--variants",
        nargs="+",
        default=variants,
        metavar="NAME",
        help="variants to compare: multi (the bundle as it is), single (each magnification by itself), shuffled_labels "
        "(which must learn nothing), overlays such as random_patches, or several of these as one, joined by + "
        f"(default: {' '.join(variants)})",
    )
    add_overlay_option(parser, text="overlays for all variants, which go before their own")
    add_value_option(parser, note="but not those that define a variant")
    parser.add_argument(
        "--seeds", default="0", metavar="A,B,C", help="random seeds of the training (default: %(default)s)"
    )
    parser.add_argument(
        "--base-dir", type=Path, metavar="DIR", help="folder of relative image paths (default: that of the datalist)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(out), metavar="DIR", help="folder for all results (default: %(default)s)"
    )
    parser.add_argument(
        "--certify",
        action="store_true",
        help="test each network with attention a second time, until its label is certain, and count the patches",
    )
    parser.add_argument(
        "--jobs",
        type=parse_whole(1),
        default=1,
        metavar="N",
        help="number of runs at the same time (default: %(default)s)",
    )


def train_variants(args: argparse.Namespace) -> int:
    """Finish all runs and print tables of the variants; 1 if a run failed, or a control is not what it is called."""
    from monai_jsma.report.experiment import RunFiles, write_experiment

    out = args.out.resolve()
    bundle = args.bundle.resolve()
    variants = make_variants(bundle, args.variants, configs=args.config, values=parse_values(args.values))
    runs, faults = _plan_runs(args, variants)
    unfinished = set()
    keys = {run.folder: key for key, run in runs.items()}
    for number, (run, error) in enumerate(finish_runs(list(runs.values()), args.jobs), start=1):
        print(f"[{number}/{len(runs)}] {run.folder.relative_to(out)}: {error or 'done'}", flush=True)
        if error is not None:
            unfinished.add(keys[run.folder])
    if unfinished:
        faults.append(
            f"{len(unfinished)} of {len(runs)} runs failed; correct what they report and give the same command again"
        )

    variants_without = {variant for variant, _, _ in unfinished}
    files = {}
    for key, run in runs.items():
        if key[0] not in variants_without:
            certified = run.certified if run.certify else None
            files[key] = RunFiles(predictions=run.predictions, patches=run.patches, certified=certified)
    if files:
        for line in write_experiment(files, out):
            print(line)
        faults += _check_controls(variants, files, bundle=bundle)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def _check_controls(
    variants: Sequence[Variant], files: Mapping[tuple[str, int, int], RunFiles], *, bundle: Path
) -> list[str]:
    """What the predictions contradict of what the variants are called, one line each."""
    from monai_jsma.report.claims import find_contradictions

    faults = []
    for variant in variants:
        records: list[PredictionRecord] = []
        for (name, _, _), run in files.items():
            if name == variant.name:
                records += run.records
        on_tissue = is_on_tissue(bundle, variant)
        for contradiction in find_contradictions(variant.parts, records, on_tissue=on_tissue):
            faults.append(f"variant '{variant.name}' is not what it is called: {contradiction}")
    return faults


def _plan_runs(args: argparse.Namespace, variants: Sequence[Variant]) -> tuple[Runs, list[str]]:
    """The runs of all variants, seeds and folds, and why some variants have none; writes datalists and settings."""
    bundle = args.bundle.resolve()
    out = args.out.resolve()
    seeds = parse_seeds(args.seeds)
    for variant in variants:
        read_config(bundle, variant.configs, variant.values)  # a wrong value ends the command, not each run
    base_dir = (args.base_dir or args.datalist.parent).resolve()
    datalists = _write_datalists(args, out, base_dir)
    num_classes = _check_datalist(args, datalists, base_dir)

    runs = {}
    faults = []
    for variant in variants:
        try:
            _record_settings(variant, bundle, folder=out / variant.name, base_dir=base_dir)
        except ValueError as error:  # the other variants are none the worse
            faults.append(str(error))
            continue
        common = {"dataset_dir": base_dir, "max_pictures": 0, **num_classes, **variant.values}
        if args.no_validation:
            common["validation_list"] = "training"
        certify = args.certify and can_be_certified(bundle, variant)
        for fold, datalist in datalists.items():
            for seed in seeds:
                training_values = {}
                if variant.shuffled:
                    training_values["data_list_file_path"] = _write_shuffled(datalist, seed)
                runs[variant.name, seed, fold] = TrainingRun(
                    bundle=bundle,
                    folder=out / variant.name / f"seed{seed}" / f"fold{fold}",
                    configs=variant.configs,
                    values={**common, "data_list_file_path": datalist, "seed": seed},
                    training_values=training_values,
                    test_list=args.test_list,
                    certify=certify,
                )
    return runs, faults


def _write_datalists(args: argparse.Namespace, out: Path, base_dir: Path) -> dict[int, Path]:
    """Write a datalist for each fold that is tested, by its number, or the datalist itself if there are no folds."""
    from monai_jsma.datalists.schema import check_items, read_datalist, save_datalist
    from monai_jsma.datalists.splits import make_fold_datalists

    content = read_datalist(args.datalist)
    check_items(content, args.datalist)
    datalists: Sequence[Mapping[str, Any]] = [content]
    if args.folds is not None:
        validation = not args.no_validation
        try:
            datalists = make_fold_datalists(content, args.folds, args.split_seed, validation=validation, base=base_dir)
        except ValueError as error:
            raise ValueError(f"{args.datalist}: {error}") from error

    chosen = _choose_folds(args.test_folds, len(datalists))
    _record(out / "datalists.json", datalists)
    paths = {}
    for fold in chosen:
        paths[fold] = save_datalist(datalists[fold], out / "datalists" / f"fold{fold}.json")
    return paths


def _choose_folds(text: str | None, num_folds: int) -> list[int]:
    """The folds to test on: those of ``--test-folds``, else all."""
    if text is None:
        return list(range(num_folds))
    chosen = parse_seeds(text, option="--test-folds")
    if chosen[-1] >= num_folds:
        raise ValueError(f"--test-folds {text}: there are {num_folds} folds, 0 to {num_folds - 1}.")
    return chosen


def _check_datalist(args: argparse.Namespace, datalists: Mapping[int, Path], base_dir: Path) -> dict[str, int]:
    """Check that all images are there before the first run begins; returns the number of classes, if it is known.

    Raises:
        FileNotFoundError: if an image is missing.
        ValueError: if a list is missing or broken.
    """
    from monai_jsma.datalists.schema import load_datalist, read_datalist

    keys = ["training", args.test_list]
    if not args.no_validation:
        keys.append("validation")
    path = next(iter(datalists.values()))
    content = read_datalist(path)
    for key in keys:
        if key not in content:
            continue  # a run may name other lists, and says so if it misses one
        try:
            load_datalist(path, key, base_dir)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error} Name that folder with --base-dir.") from error
    labels = content.get("labels")
    return {"num_classes": len(labels)} if labels else {}


def _write_shuffled(path: Path, seed: int) -> Path:
    """Write a copy of a datalist with randomly permuted labels beside it."""
    from monai_jsma.datalists.schema import read_datalist, save_datalist
    from monai_jsma.datalists.splits import shuffle_labels

    content = shuffle_labels(read_datalist(path), seed)
    return save_datalist(content, path.with_name(f"{path.stem}_shuffled{seed}.json"))


def _record_settings(variant: Variant, bundle: Path, *, folder: Path, base_dir: Path) -> None:
    configs = {}
    for file in find_configs(bundle, "train", *variant.configs):
        configs[file] = json.loads((bundle / file).read_text())
    settings = {"values": variant.values, "base_dir": str(base_dir), "configs": configs}
    _record(folder / "settings.json", settings)


def _record(path: Path, settings: Any) -> None:
    """Write settings, or check that they are those of an earlier command: runs of different settings must not mix.

    Raises:
        ValueError: if they are not; it names those that differ.
    """
    text = json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if path.exists():
        earlier = path.read_text(encoding="utf-8")
        if earlier != text:
            differences = _list_differences(json.loads(earlier), json.loads(text))
            raise ValueError(
                f"{path.parent} holds runs of other data or settings: {join_few(differences)}. They are kept: go back "
                "to what they were made with, or name another --out."
            )
    write_whole(path, text)


def _list_differences(earlier: Any, now: Any) -> list[str]:
    """The names of all values that differ, with both values."""
    before = dict(_list_values(earlier))
    after = dict(_list_values(now))
    differences = []
    for name in [*before, *(name for name in after if name not in before)]:
        old = json.dumps(before[name], ensure_ascii=False) if name in before else "absent"
        new = json.dumps(after[name], ensure_ascii=False) if name in after else "absent"
        if old != new:
            differences.append(f"'{name}' was {old} and is {new}")
    return differences


def _list_values(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values in nested objects and lists, such as ``values#epochs``."""
    entries: list[tuple[Any, Any]] = []
    if isinstance(content, Mapping):
        entries = list(content.items())
    elif isinstance(content, list):
        entries = list(enumerate(content))
    if not entries:
        yield name, content
    for key, value in entries:
        yield from _list_values(value, f"{name}#{key}" if name else str(key))
