# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_jsma.deploy FOLDER SLIDE``: what an exported network says of a slide, as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from monai_jsma.deploy.runner import Runner
from monai_jsma.slides.errors import SlideError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Predict slides, and print a line of JSON for each.

    Args:
        argv: arguments of the command line (default: those of this process).

    Returns:
        1 if one could not be predicted, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m monai_jsma.deploy", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the exported network")
    parser.add_argument("slides", type=Path, nargs="+", metavar="SLIDE", help="images or slides")
    parser.add_argument("--mpp", type=float, metavar="UM", help="um per pixel, where the files state none")
    parser.add_argument("--regions", action="store_true", help="predict the tissue regions of each slide one by one")
    args = parser.parse_args(argv)
    code = 0
    try:
        runner = Runner(args.folder)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for slide in args.slides:
        try:
            if args.regions:
                results = list(runner.predict_regions(slide, mpp=args.mpp))
            else:
                results = [runner(slide, mpp=args.mpp)]
        except (ValueError, OSError, SlideError) as error:
            print(f"error: {error}", file=sys.stderr)
            code = 1
            continue
        for result in results:
            print(json.dumps(result.as_json()))
    return code


if __name__ == "__main__":
    sys.exit(main())
