# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``crossval`` and ``compare``: train and test variants of a bundle, on the folds of a datalist or on its own split.

Each run has a folder ``VARIANT/seedS/foldF`` with its models, logs and predictions. The same command completes what was
interrupted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_jsma.cli import Commands, add_command
from monai_jsma.cli.bundles import add_bundle, config_files
from monai_jsma.cli.runs import TrainingRun, finish_all, make_variants, read_seeds

__all__ = ["add_parsers", "run"]

Runs = dict[tuple[str, int, int], TrainingRun]  # by variant, seed and fold


def add_parsers(commands: Commands) -> None:
    """Add both commands."""
    summary = "Train and test a bundle on every fold of a datalist, by group and with several seeds."
    folds = add_command(commands, "crossval", run, summary=summary)
    _add_options(folds, ["multi"], "crossval")
    folds.add_argument("--folds", type=int, default=5, metavar="K", help="number of folds (default: %(default)s)")
    folds.add_argument("--split-seed", type=int, default=0, metavar="S", help="of the folds (default: %(default)s)")
    folds.add_argument(
        "--no-validation", action="store_true",
        help="train on all other folds, and keep the model that fits them best: for few groups",
    )  # fmt: skip
    folds.set_defaults(test_list="test")
    summary = "Train and test variants of a bundle on a datalist's own split, such as each single magnification."
    own = add_command(commands, "compare", run, summary=summary)
    _add_options(own, ["multi", "single"], "compare")
    own.add_argument("--test-list", default="test", metavar="NAME", help="side to test on (default: %(default)s)")
    own.set_defaults(folds=None, no_validation=False)


def _add_options(parser: argparse.ArgumentParser, variants: list[str], out: str) -> None:
    parser.add_argument("datalist", type=Path, metavar="DATALIST", help="the JSON file")
    add_bundle(parser)
    parser.add_argument(
        "--variants", nargs="+", default=variants, metavar="NAME",
        help="multi, single (each magnification alone), shuffled_labels (which must learn nothing) or overlays such as "
        f"random_patches, which are compared (default: {' '.join(variants)})",
    )  # fmt: skip
    parser.add_argument("--config", nargs="+", default=[], metavar="NAME", help="overlays of all variants")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", dest="values", help="values of the configuration"
    )
    parser.add_argument("--seeds", default="0", metavar="A,B,C", help="seeds of the training (default: %(default)s)")
    parser.add_argument(
        "--base-dir", type=Path, metavar="DIR", help="folder of relative image paths (default: the datalist's)"
    )
    parser.add_argument("--out", type=Path, default=Path(out), help="folder for all (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Finish all runs, and print what they show; 1 if a run failed."""
    from monai_jsma.report.experiment import write_experiment

    out = args.out.resolve()
    runs = _plan(args, out)
    failed = 0
    for number, (done, error) in enumerate(finish_all(list(runs.values()), args.jobs), start=1):
        print(f"[{number}/{len(runs)}] {done.folder.relative_to(out)}: {error or 'done'}", flush=True)
        failed += error is not None
    if failed:
        print(f"{failed} of {len(runs)} runs failed; mend what they say and give the same command again")
        return 1
    for line in write_experiment({key: done.predictions for key, done in runs.items()}, out):
        print(line)
    return 0


def _plan(args: argparse.Namespace, out: Path) -> Runs:
    """The runs; writes the datalists of the folds."""
    bundle, base = args.bundle.resolve(), (args.base_dir or args.datalist.parent).resolve()
    lists, seeds = _datalists(args, out), read_seeds(args.seeds)
    variants = make_variants(bundle, args.variants, args.config, dict(_value(text) for text in args.values))
    runs = {}
    for variant in variants:
        files = config_files(bundle, "train", *variant.configs)
        configs = {file: json.loads((bundle / file).read_text()) for file in files}
        settings = {"values": variant.values, "base_dir": str(base), "configs": configs}
        _stamp(out / variant.name / "settings.json", settings)
        common = {"dataset_dir": base, "max_pictures": 0, **variant.values}
        if args.no_validation:
            common["validation_list"] = "training"
        for fold, path in enumerate(lists):
            one = TrainingRun(bundle, out, variant.configs, {**common, "data_list_file_path": path}, args.test_list)
            for seed in seeds:
                folder = out / variant.name / f"seed{seed}" / f"fold{fold}"
                training = {"data_list_file_path": _shuffled(path, seed)} if variant.shuffled else {}
                values = {**one.values, "seed": seed}
                runs[variant.name, seed, fold] = replace(one, folder=folder, values=values, training=training)
    return runs


def _shuffled(path: Path, seed: int) -> Path:
    """Beside a datalist the same with labels that are dealt anew."""
    from monai_jsma.datalists.schema import read_datalist, save_datalist
    from monai_jsma.datalists.shuffled import shuffle_labels

    return save_datalist(shuffle_labels(read_datalist(path), seed), path.with_name(f"{path.stem}_shuffled{seed}.json"))


def _datalists(args: argparse.Namespace, out: Path) -> list[Path]:
    """One for each fold; the datalist itself where there are none."""
    from monai_jsma.datalists.crossval import cross_validation
    from monai_jsma.datalists.schema import check_items, read_datalist, save_datalist

    content = read_datalist(args.datalist)
    check_items(content, args.datalist)
    if args.folds is None:
        made: Sequence[Mapping[str, Any]] = [content]
    else:
        made = cross_validation(content, args.folds, args.split_seed, validation=not args.no_validation)
    _stamp(out / "datalists.json", made)
    return [save_datalist(one, out / "datalists" / f"fold{fold}.json") for fold, one in enumerate(made)]


def _stamp(path: Path, settings: Any) -> None:
    """Runs of other settings must not be joined with these."""
    from monai_jsma._io import write_whole

    text = json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{path.parent} holds runs of other data or settings; name another --out.")
    write_whole(path, text)


def _value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"--set '{text}': NAME=VALUE was expected, such as epochs=20.")
    return name, "$None" if value == "None" else value  # MONAI passes over a plain None
