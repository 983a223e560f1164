# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``export`` writes a trained network as graphs of ``torch.export`` and ONNX, to run where there is no PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_jsma._io import write_whole
from monai_jsma.cli import Commands, add_command
from monai_jsma.cli.bundles import (
    add_bundle_option,
    add_overlay_option,
    add_value_option,
    load_weights,
    parse_values,
    read_config,
)
from monai_jsma.failures import describe_cause

if TYPE_CHECKING:
    from monai.bundle import ConfigParser
    from torch import nn

    from monai_jsma.networks import Reading

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Add ``export``."""
    summary = (
        "Write a trained network as graphs of torch.export and ONNX, with what monai_jsma.deploy needs to run them."
    )
    parser = add_command(commands, "export", _export, summary=summary)
    parser.add_argument("model", type=Path, metavar="MODEL", help="weights, such as bundles/bach/models/model.pt")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, new or empty")
    add_bundle_option(parser)
    add_overlay_option(parser, text="overlays, as the training had them")
    add_value_option(parser, note="as the training had them")


def _export(args: argparse.Namespace) -> None:
    """Write the folder, and print the largest difference of each graph, then the folder.

    Raises:
        FileNotFoundError: if the weights or a configuration are missing.
        ValueError: if they do not fit, or cannot be exported.
    """
    from monai_jsma.networks import export_network

    if not args.model.is_file():
        raise FileNotFoundError(f"{args.model}: no such file; train first, or name the weights of a training.")
    values = {"bundle_root": args.bundle.resolve(), **parse_values(args.values)}
    parser = read_config(args.bundle, args.config, values, base="inference")
    network = _build_network(parser, args.bundle)
    load_weights(network, args.model, bundle=args.bundle)
    try:
        folder = export_network(
            network.eval(),
            args.out,
            sampler=_read_content(parser, "inference_sampler", args.bundle),
            seed=_read_content(parser, "seed", args.bundle),
            reading=_read_reading(parser, args.bundle),
        )
    except ImportError as error:
        raise ValueError(str(error)) from error
    _copy_metadata(args.bundle, folder)
    from monai_jsma.deploy import ExportSettings

    for name, difference in ExportSettings.read(folder).largest_difference.items():
        print(f"{name}: ONNX Runtime differs from PyTorch by {difference:.1e} of the largest value at most")
    print(folder)


def _build_network(parser: ConfigParser, bundle: Path) -> nn.Module:
    network: nn.Module = _read_content(parser, "network_def", bundle)
    return network


def _read_content(parser: ConfigParser, name: str, bundle: Path) -> Any:
    """A value of a configuration, with what it refers to.

    Raises:
        ValueError: if it cannot be computed.
    """
    try:
        return parser.get_parsed_content(name)
    except (RuntimeError, ValueError, ImportError, OSError) as error:
        raise ValueError(f"{bundle}: {name} cannot be built: {describe_cause(error)}") from error


def _read_reading(parser: ConfigParser, bundle: Path) -> Reading:
    from monai_jsma.networks import Reading

    zooms = bool(_read_content(parser, "zoom", bundle))
    whole_image = bool(_read_content(parser, "whole_image", bundle))
    return Reading(
        default_mpp=_read_content(parser, "default_mpp", bundle),
        whole_image=whole_image,
        tissue_only=zooms or bool(_read_content(parser, "tissue_only", bundle)),
        region_size=None if zooms else _read_content(parser, "region_size", bundle),
        region_mpp=_read_content(parser, "mpp", bundle),
    )


def _copy_metadata(bundle: Path, folder: Path) -> None:
    """The metadata of the bundle, which say what the network is for."""
    metadata = bundle / "configs" / "metadata.json"
    if metadata.is_file():
        write_whole(folder / "metadata.json", metadata.read_bytes())
