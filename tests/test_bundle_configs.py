# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The configurations of the BACH bundle against the paper, each other, and the documents; nothing in them is unused."""

from __future__ import annotations

import ast
import builtins
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from bundle_runs import BUNDLE, ROOT
from monai.bundle import ConfigParser

from monai_jsma.__main__ import build_parser

CONFIGS = {p.stem: json.loads(p.read_text()) for p in (BUNDLE / "configs").glob("*.json")}
METADATA = CONFIGS.pop("metadata")
TRAIN, INFERENCE = CONFIGS["train"], CONFIGS["inference"]
CARD = (BUNDLE / "docs" / "README.md").read_text()

ENTRIES = {"imports", "initialize", "run", "training", "evaluating", "finalize"}  # what MONAI or the user calls by name
ADDITIONS = {
    "demo": set(),
    "single_magnification": {"single_magnification"},
    "evaluate": {"load_path", "evaluating"},
    "multi_gpu_train": {
        "backend", "local_rank", "device_ids", "finalize",
        "train#sampler", "train#dataloader#sampler", "validate#sampler", "validate#dataloader#sampler",
    },
}  # fmt: skip


def parts(config: dict[str, Any]) -> dict[str, Any]:
    """The named items of a configuration; those of its sections by ``section#name``."""
    found = {k.removeprefix("+"): v for k, v in config.items() if k not in ("train", "validate")}
    return found | {f"{s}#{k}": v for s in ("train", "validate") for k, v in config.get(s, {}).items()}


def strings(value: Any) -> Iterator[str]:
    """All strings in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def references(value: Any) -> set[str]:
    """Names that a value refers to: ``@name``, ``@section#name#...`` and ``%name``."""
    return {name for text in strings(value) for name in re.findall(r"(?:@|^%)(\w+(?:#\w+)*)", text)}


def code_names(config: dict[str, Any]) -> set[str]:
    """The free names of all expressions of a configuration, apart from Python's and those that MONAI imports."""
    names = {"monai", "torch", "np"} | set(dir(builtins))
    found = set()
    for text in strings(config):
        if text.startswith("$") and not text.startswith("$import "):
            tree = list(ast.walk(ast.parse(re.sub(r"@\w+(#\w+)*", "None", text[1:]), mode="eval")))
            bound = {node.arg for node in tree if isinstance(node, ast.arg)}
            bound |= {node.id for node in tree if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            found |= {node.id for node in tree if isinstance(node, ast.Name)} - bound
    return found - names


def imports(config: dict[str, Any]) -> set[str]:
    """The names that a configuration imports."""
    lines = config.get("imports", []) + config.get("+imports", [])
    return {a.asname or a.name for line in lines for a in ast.parse(line[1:]).body[0].names}


@pytest.mark.parametrize("name", ["train", "inference"])
def test_every_name_is_used(name):
    overlays = [CONFIGS[overlay] for overlay in ADDITIONS] if name == "train" else []
    found = parts(CONFIGS[name])
    used = {k: references([v for other, v in found.items() if other != k] + overlays) for k in found}
    unused = [k for k in found if k not in ENTRIES and not any(f"{r}#".startswith(f"{k}#") for r in used[k])]
    assert unused == []


@pytest.mark.parametrize("name", CONFIGS)
def test_every_import_is_used_and_every_name_is_imported(name):
    own = imports(CONFIGS[name])
    assert code_names(CONFIGS[name]) | {"monai_jsma"} == own | imports(TRAIN)  # without it no short name resolves
    assert own <= code_names(CONFIGS[name])


@pytest.mark.parametrize("name", ADDITIONS)
def test_overlays_override_what_is_there(name):
    parser = ConfigParser(TRAIN)
    added = {key.removeprefix("+") for key in CONFIGS[name] if key.removeprefix("+") not in parser}
    assert added == ADDITIONS[name]
    known = set(parts(TRAIN)) | set(parts(CONFIGS[name]))
    assert {"#".join(r.split("#")[:2]) for r in references(CONFIGS[name])} <= known


def test_the_papers_settings_are_the_defaults():
    paper = {
        "thumbnail_size": [224, 299], "patch_size": 299, "num_patches": 5,
        "mpp": 0.42, "magnifications": "$[4 * @mpp, 2 * @mpp, @mpp]",
        "thumbnail_backbone": "inception_v3", "patch_backbone": "inception_v3", "weights": "imagenet",
        "normalization": "sigmoid", "learning_rule": "pathwise", "estimator": "paper", "feature_norm": None,
        "alpha": 0.01, "regularizer": "entropy", "lr": 1e-4, "lr_patience": 25, "lr_factor": 0.1, "epochs": 100,
        "val_interval": 1,
    }  # fmt: skip
    assert {name: TRAIN[name] for name in paper} == paper
    assert TRAIN["attention_dropout"] > 0
    assert TRAIN["optimizer"]["_target_"] == "torch.optim.Adam"


def test_training_and_inference_are_of_one_network_and_one_view():
    assert TRAIN["network_def"] == INFERENCE["network_def"]
    for name in ("deterministic_transforms", "thumbnail_transforms"):
        assert TRAIN["train"][name] == INFERENCE[name]
    view = "@{0}deterministic_transforms + @{0}thumbnail_transforms"
    assert TRAIN["validate"]["preprocessing"]["transforms"] == "$" + view.format("train#")
    assert INFERENCE["preprocessing"]["transforms"] == "$" + view.format("")
    shared = set(TRAIN) & set(INFERENCE) - {"batch_keys", "max_pictures", "output_dir", "run"}
    assert {name: TRAIN[name] for name in shared} == {name: INFERENCE[name] for name in shared}
    assert {"mpp", "thumbnail_size", "patch_size", "num_patches", "magnifications", "estimator"} <= shared


def commands(text: str) -> list[list[str]]:
    """The commands of a page that run bundles, from its code blocks and from the code in its tables."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    code = blocks + re.findall(r"`((?:python|torchrun) [^`]+)`", text)
    lines = [line for block in code for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if "monai.bundle run" in line]


@pytest.mark.parametrize("page", [BUNDLE / "docs" / "README.md", ROOT / "docs" / "bundle.md"], ids=lambda p: p.name)
def test_commands_name_real_files_run_ids_and_settings(page):
    found = commands(page.read_text())
    assert len(found) >= 4
    for words in found:
        words = words[words.index("run") + 1 :]
        run_id = "run" if words[0].startswith("--") else words.pop(0)
        options = dict(zip(words[::2], words[1::2], strict=True))
        files = options.pop("--config_file")
        files = json.loads(files.replace("'", '"')) if files.startswith("[") else [files]
        parser = ConfigParser()
        parser.read_config([str(BUNDLE / file) for file in files])
        assert run_id in parser
        kind = options.pop("--workflow_type", "train")
        assert (kind == "infer") == (files == ["configs/inference.json"])
        assert all(name.removeprefix("--") in parser for name in options), options


def test_the_card_agrees_with_the_configuration():
    settings = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| [^|]+ \|([^|]+)\|", CARD, re.MULTILINE)))
    assert len(settings) > 10
    assert set(settings) <= set(TRAIN)
    performance = CARD.split("## Performance")[1].split("\n## ")[0]
    assert bool(METADATA["eval_metrics"]) != ("Not run" in performance)
    assert all(str(value) in performance for value in METADATA["eval_metrics"].values())
    for words in re.findall(r"`python -m monai_jsma ([^`]+)`", CARD):
        build_parser().parse_args([*words.split(), "folder of the user"])
