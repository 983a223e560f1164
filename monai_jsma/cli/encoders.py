# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``encoders``: which encoders have a short name, what each needs, and whether its weights are on this machine."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_jsma._io import format_table
from monai_jsma.cli import Commands, add_command

if TYPE_CHECKING:
    from monai_jsma.networks import EncoderCard

__all__ = ["add_commands", "print_encoders"]

_POOLINGS = {
    "token": "class token",
    "token_mean": "class token, then mean of the patch tokens",
    "attention": "attention over the tokens",
}


def add_commands(commands: Commands) -> None:
    """Add ``encoders``."""
    summary = "List the encoders that have a short name, what each needs, and whether its weights are on this machine."
    parser = add_command(commands, "encoders", print_encoders, summary=summary)
    parser.add_argument("name", nargs="?", help="one of them, of which all that is known is printed")
    parser.add_argument("--json", action="store_true", help="print the same as JSON")


def print_encoders(args: argparse.Namespace) -> None:
    """Print one encoder, or all of them.

    Raises:
        ValueError: for an unknown name.
    """
    from monai_jsma.networks.encoder_building import find_weights_here
    from monai_jsma.networks.encoder_cards import ENCODERS, find_card, suggest_encoders

    cards = list(ENCODERS.values())
    if args.name is not None:
        card = find_card(args.name)
        if card is None:
            near = ", ".join(suggest_encoders(args.name)) or ", ".join(ENCODERS)
            raise ValueError(f"no encoder is called '{args.name}' ({near}).")
        cards = [card]
    found = {card.name: find_weights_here(card) for card in cards}
    if args.json:
        print(json.dumps([_describe(card, found[card.name]) for card in cards], indent=4))
    elif args.name is not None:
        print(_format_card(cards[0], found[cards[0].name]))
    else:
        print(_format_table(cards, found))


def _describe(card: EncoderCard, path: Path | None) -> dict[str, Any]:
    return {**asdict(card), "page": card.page, "weights": None if path is None else str(path)}


def _format_table(cards: list[EncoderCard], found: dict[str, Path | None]) -> str:
    from monai_jsma.networks.encoder_cards import FAMILIES

    rows = [["encoder", "features", "input", "um/px", "weights", "gate", "license"]]
    for card in cards:
        spacings = " ".join(f"{mpp:g}" for mpp in card.mpp)
        here = "here" if found[card.name] else "-"
        gate = "gated" if card.gated else "-"
        rows.append([card.name, str(card.num_features), str(card.size), spacings, here, gate, card.license])
    lines = format_table(rows, align="left")
    families = ", ".join(f"'{family}' is {name}" for family, name in FAMILIES.items())
    lines += [
        "",
        f"{families}.",
        "weights: whether the hub's cache on this machine has them; gate: the terms must be accepted on the hub.",
        "All of one, with what to write: python -m monai_jsma encoders NAME",
    ]
    return "\n".join(lines)


def _format_card(card: EncoderCard, path: Path | None) -> str:
    mean, std = card.normalization or ("as its config.json states", "")
    layers = card.architecture or "as its config.json states"
    gate = f"accept the terms at {card.page}, then 'hf auth login'" if card.gated else "none"
    facts = {
        "encoder": card.name,
        "page": card.page,
        "license": card.license,
        "gate": gate,
        "weights": "not on this machine" if path is None else str(path),
        "layers": " ".join([layers, *(f"{key}={value}" for key, value in card.options.items())]),
        "input": f"{card.size} x {card.size} pixels of {' or '.join(f'{mpp:g}' for mpp in card.mpp)} um",
        "mean, std": f"{mean} {std}".strip(),
        "feature": f"{card.num_features} numbers: {_POOLINGS[card.pooling]}",
        "source": card.source,
        "to use it": f"--patch_backbone {card.name} --patch_size {card.size} --weights "
        "\"{'patch_backbone': 'imagenet'}\", or the path of its file or folder in the place of imagenet",
    }
    return "\n".join(f"{name:<10} {fact}" for name, fact in facts.items())
