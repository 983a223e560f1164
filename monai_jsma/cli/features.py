# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``features read`` and ``features write``: features of patches from other tools, and for them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_jsma._io import join_few
from monai_jsma.cli import Commands, add_command, show_progress
from monai_jsma.cli.bundles import add_bundle_option, add_overlay_option, add_value_option, parse_values, read_config
from monai_jsma.failures import describe_cause

if TYPE_CHECKING:
    from monai_jsma.data import Pyramid
    from monai_jsma.data.feature_files import PatchFeatures
    from monai_jsma.networks import PatchEncoder

__all__ = ["add_commands", "read_features", "write_features"]

_OBJECTIVE_OF_1_UM = 10  # a 10x objective is about 1 um per pixel


def add_commands(commands: Commands) -> None:
    """Add ``features`` with its two commands."""
    summary = "Take features of patches that TRIDENT or CLAM made, or write those of a bundle in their form."
    parser = commands.add_parser("features", help=summary, description=summary)
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    summary = "Put features of other tools into the feature cache of a bundle, where patches and encoder agree."
    reading = add_command(actions, "read", read_features, summary=summary)
    reading.add_argument("features", type=Path, metavar="FEATURES", help="folder of NAME.h5 or NAME.pt of each slide")
    _add_bundle_options(reading)
    reading.add_argument(
        "--coords",
        type=Path,
        metavar="DIR",
        help="folder of the places of the patches, where the files of features do not have them: CLAM's 'patches'",
    )

    summary = "Encode all patches of a datalist with the bundle's encoder, and write them as TRIDENT does."
    writing = add_command(actions, "write", write_features, summary=summary)
    writing.add_argument("out", type=Path, metavar="OUT", help="folder for a folder of each magnification")
    _add_bundle_options(writing)


def _add_bundle_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datalist", type=Path, metavar="DATALIST", help="the JSON file")
    add_bundle_option(parser)
    add_overlay_option(parser, text="overlays, as the training has them")
    add_value_option(parser, note="as the training has them")
    parser.add_argument(
        "--base-dir", type=Path, metavar="DIR", help="folder of relative image paths (default: that of the datalist)"
    )


def read_features(args: argparse.Namespace) -> int:
    """Fill the cache, and print for each slide how many of its patches have a feature; 1 if one was refused."""
    from monai_jsma.data.feature_files import find_feature_file, read_feature_file
    from monai_jsma.networks.feature_exchange import import_features

    bundle = _Bundle(args)
    faults = []
    without = []
    total = 0
    for pyramid in bundle.open_images():
        file = find_feature_file(args.features, pyramid.path)
        if file is None:
            without.append(Path(pyramid.path).name)
            continue
        try:
            with bundle.autocast():
                number = import_features(bundle.encoder, pyramid, read_feature_file(file, args.coords))
        except (ValueError, OSError) as error:
            faults.append(str(error))
            continue
        total += number
        print(f"{pyramid.path}: {number} of {pyramid.stored_geometry.num_cells} patches, from {file}")
    if not total and not faults:
        raise ValueError(f"{args.features}: it has no features of {join_few(without)}; files are called NAME.h5.")
    for fault in faults:
        print(f"refused: {fault}")
    if without:
        print(f"no features of {len(without)} images: {join_few(without)}")
    print(f"{total} features in {bundle.cache_folder}; patches without one are encoded when they are read.")
    return 1 if faults else 0


def write_features(args: argparse.Namespace) -> None:
    """Write an ``.h5`` for each slide and magnification, and print the folders.

    Raises:
        ValueError: if two slides have one name, or the configuration cannot be used.
    """
    from monai_jsma.networks.feature_exchange import export_features

    bundle = _Bundle(args)
    folders = set()
    regions: dict[str, list[Pyramid]] = {}
    for pyramid in bundle.open_images():
        regions.setdefault(pyramid.path, []).append(pyramid)
    for pyramids in regions.values():
        with bundle.autocast():
            exported = [export_features(bundle.encoder, pyramid) for pyramid in pyramids]
        for levels in zip(*exported):
            folders.add(_write_level(args.out, levels, pyramids[0], bundle.encoder_name).parent)
    for folder in sorted(folders):
        print(folder)


def _write_level(out: Path, parts: Sequence[PatchFeatures], pyramid: Pyramid, encoder: str) -> Path:
    """Write the patches of all regions of a slide at one magnification; equal places stand there once."""
    import numpy as np

    from monai_jsma.data.feature_files import PatchFeatures, write_feature_file

    places = np.concatenate([part.places for part in parts])
    features = np.concatenate([part.features for part in parts])
    _, first = np.unique(np.rint(places), axis=0, return_index=True)
    patches = PatchFeatures(
        features=features[first],
        places=places[first],
        patch_size=parts[0].patch_size,
        size_at_level_0=parts[0].size_at_level_0,
    )
    height, width = pyramid.reader.level_sizes[0]
    target = _name_objective(pyramid.mpp * patches.downsample)
    attributes: Mapping[str, Any] = {
        "level0_magnification": _name_objective(pyramid.mpp),
        "target_magnification": target,
        "overlap": 0,
        "level0_width": width,
        "level0_height": height,
        "level0_mpp": pyramid.mpp,
        "mpp": pyramid.mpp * patches.downsample,
        "encoder": encoder,
    }
    folder = f"{target:g}x_{patches.patch_size}px_0px_overlap"
    file = out / folder / f"features_{encoder}" / f"{Path(pyramid.path).stem}.h5"
    write_feature_file(file, patches, attributes)
    return file


def _name_objective(mpp: float) -> int | float:
    """The objective that a spacing is called by, such as 20 for 0.5 um: a whole number where it is near to one."""
    power = _OBJECTIVE_OF_1_UM / mpp
    return round(power) if abs(power - round(power)) < 0.02 * power else round(power, 2)


def _check_names(paths: Sequence[str]) -> None:
    """Check that no two images would share a file of features, which has the name of its image.

    Raises:
        ValueError: if two do.
    """
    named: dict[str, str] = {}
    for path in paths:
        other = named.setdefault(Path(path).stem, path)
        if other != path:
            raise ValueError(f"{other} and {path} have one name, and would share a file of features: rename one.")


class _Bundle:
    """The encoder and the images of a bundle's configuration, as a training would have them.

    Args:
        args: parsed arguments of the command.

    Raises:
        ValueError: if the configuration keeps no features.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        from monai_jsma.data.feature_files import import_h5py
        from monai_jsma.networks.encoder_spec import read_encoder_name

        base_dir = args.base_dir or args.datalist.parent
        places = {
            "bundle_root": args.bundle.resolve(),
            "dataset_dir": base_dir.resolve(),
            "data_list_file_path": args.datalist.resolve(),
        }
        values = parse_values(args.values)
        self._parser = read_config(args.bundle, args.config, {**places, **values})
        self._datalist = args.datalist
        self._base_dir = base_dir
        try:
            import_h5py()
            self.encoder = self._build_encoder()
        except (ImportError, RuntimeError) as error:  # MONAI's, around the reason, or of weights that do not fit
            raise ValueError(describe_cause(error)) from error
        assert self.encoder.feature_cache is not None
        self.cache_folder = self.encoder.feature_cache.folder
        name = self.encoder.backbone.name
        name = "module" if name is None else read_encoder_name(name)
        self.encoder_name = re.sub(r"[^\w.-]+", "_", Path(name).name)

    def _build_encoder(self) -> PatchEncoder:
        """The patch encoder f alone, with its weights, on its device."""
        from monai_jsma.networks.backbones import select_weights

        encoder: PatchEncoder = self._parser.get_parsed_content("patch_encoder")
        if encoder.feature_cache is None:
            raise ValueError("this configuration keeps no features: add the overlay of a frozen f, --config frozen.")
        if self._parser.get_parsed_content("zoom"):
            raise ValueError("features of whole slides that are zoomed into cannot be exchanged: leave zoom out.")
        if self._parser.get_parsed_content("stain_norm"):
            raise ValueError("other tools' features are of images as they are stained: leave 'stain_norm' null.")
        weights = select_weights(self._parser.get_parsed_content("weights"), "patch_backbone")
        self._device = self._parser.get_parsed_content("device")
        return encoder.load_weights(weights).eval().to(self._device)

    def autocast(self) -> Any:
        """Mixed precision, where the training has it: features are kept by their precision."""
        import torch

        return torch.autocast(self._device.type, enabled=bool(self._parser.get_parsed_content("amp")))

    def open_images(self) -> Any:
        """The images of all splits of the datalist, opened as in a training, with a progress bar."""
        from monai_jsma.datalists.schema import SPLITS, load_datalist, read_datalist

        load = self._parser.get_parsed_content("train#deterministic_transforms#0")
        content = read_datalist(self._datalist)
        items = []
        for split in SPLITS:
            if content.get(split):
                items += list(load_datalist(self._datalist, split, self._base_dir))
        _check_names([str(item["image"]) for item in items])
        for item in show_progress(items):
            yield load(item)["image"]
