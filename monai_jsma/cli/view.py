# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``view PREDICTIONS`` shows saved predictions on their slides, in a browser. The model is not needed."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monai_jsma._io import join_few
from monai_jsma.cli import Commands, add_command, parse_whole, print_error
from monai_jsma.cli.show import add_record_options

if TYPE_CHECKING:
    from monai_jsma.datalists.regions import Area
    from monai_jsma.slides.frame import Frame

__all__ = ["add_commands", "view_predictions"]

_PORT = 8470
_MAX_PORT = 65535


def add_commands(commands: Commands) -> None:
    """Add ``view``."""
    summary = "Show saved predictions on their slides in a browser: pan, zoom, attention, patches, annotations."
    parser = add_command(commands, "view", view_predictions, summary=summary)
    add_record_options(parser, annotations="their outlines are shown")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="address to listen at; with another than this machine's own, a token is needed (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=parse_whole(),
        default=_PORT,
        metavar="N",
        help=f"port to listen at, 0 for any that is free (default: {_PORT})",
    )
    parser.add_argument(
        "--token", action="store_true", help="need a token on this machine too, where others have accounts"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def view_predictions(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; 1 if there are no predictions."""
    from monai_jsma.predictions.records import read_records
    from monai_jsma.viewer import Access, Viewer, ViewerServer

    if args.port > _MAX_PORT:
        raise ValueError(f"--port {args.port}: ports go up to {_MAX_PORT}; choose another.")
    access = Access(args.host, needs_token=args.token)
    records = read_records(args.predictions)
    if not records:
        raise ValueError(f"{join_few(args.predictions)}: no predictions; name files with at least one.")

    areas: dict[str, list[Area]] = {}
    if args.annotations:
        files = list(dict.fromkeys(record.file for record in records))
        areas = _read_areas(args.annotations, files, frame=args.frame)
    title = join_few(path.name for path in args.predictions)
    viewer = Viewer(records, args.base_dir, title=title, areas=areas)
    with ViewerServer(viewer, access, port=args.port) as server:
        print(f"{server.url}  (Ctrl-C ends it)", flush=True)
        if not access.is_local:
            print("Whoever has this address sees the slides, and it is sent unencrypted: prefer an SSH tunnel.")
        if args.open:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def _read_areas(path: Path, files: Sequence[str], *, frame: Frame | None) -> dict[str, list[Area]]:
    """The annotated areas of each file. What cannot be read or has no slide is told; the others are shown.

    Args:
        path: a file of annotations, or the folder of several.
        files: the files that were predicted.
        frame: the corner that all annotations count from; None: that of the tool that wrote them.
    """
    from monai_jsma.datalists.annotations import find_annotations, match_annotations

    file_of_slide = {Path(file): file for file in files}
    areas, faults = match_annotations(find_annotations(path), list(file_of_slide), frame=frame)
    for fault in faults:
        print_error(fault.reason)
    if not areas:
        raise ValueError(f"{path}: holds no annotation of a file that was predicted; name them as the files.")
    return {file_of_slide[slide]: of_slide for slide, of_slide in areas.items()}
