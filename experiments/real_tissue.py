# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What does attention gain on real tissue? The method and every control, on several splits and with several seeds.

    python experiments/real_tissue.py DATALIST [--config pretrained] [--base-dir DIR] [--set NAME=VALUE ...]

It is ``python -m monai_jsma crossval`` with a fixed list of variants, so that nothing is left out afterwards: the
method, each magnification alone, random patches of all cells and of the attention's prior, all patches, attention MIL,
the whole image in one pass, the paper's settings, logistic regression on the mean of all patches, and permuted labels.
All of them have the encoder and the settings of ``--config`` and ``--set``. The tables are in ``OUT/tables.md``; given
again, the command completes what is missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from monai_jsma.__main__ import main as run_command

VARIANTS = (
    "multi",
    "single",
    "random_patches",
    "balanced_random_patches",
    "all_patches",
    "attention_mil",
    "whole_image",
    "paper",
    "mean_features",
    "shuffled_labels",
)
BUNDLE = Path(__file__).parents[1] / "bundles" / "bach"


def make_command(args: argparse.Namespace) -> list[str]:
    """Arguments of ``python -m monai_jsma`` for this experiment."""
    command = ["crossval", str(args.datalist), "--certify"]
    if args.no_validation:
        command.append("--no-validation")
    for option in ("bundle", "folds", "test_folds", "seeds", "out", "base_dir", "jobs"):
        value = getattr(args, option)
        if value is not None:
            command.append(f"--{option.replace('_', '-')}={value}")
    for option, values in (("variants", args.variants), ("config", args.config), ("set", args.values)):
        if values:
            command += [f"--{option}", *values]
    return command


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="The method and every control on a datalist of real tissue.")
    add = parser.add_argument
    add("datalist", type=Path, metavar="DATALIST", help="the JSON file, such as of 'prepare folder'")
    add("--bundle", default=BUNDLE, metavar="DIR", help="folder of the bundle (default: bundles/bach)")
    add("--base-dir", metavar="DIR", help="folder of relative image paths (default: that of the datalist)")
    add("--config", nargs="+", default=["pretrained"], metavar="NAME", help="overlays for all (default: pretrained)")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", dest="values", help="values for all variants")
    add("--variants", nargs="+", default=list(VARIANTS), metavar="NAME", help="only these (default: all)")
    add("--folds", default=5, metavar="K", help="number of folds (default: %(default)s)")
    add("--test-folds", default="0,1,2", metavar="A,B,C", help="folds to test on (default: %(default)s)")
    add("--no-validation", action="store_true", help="train on all other folds: for few groups")
    add("--seeds", default="0,1,2,3,4", metavar="A,B,C", help="random seeds of the training (default: %(default)s)")
    add("--out", default="real", metavar="DIR", help="folder for all results (default: %(default)s)")
    add("--jobs", default=1, metavar="N", help="number of runs at the same time (default: %(default)s)")
    return run_command(make_command(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
