# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The configurations of the bundles against the paper, each other, and the documents; nothing in them is unused."""

from __future__ import annotations

import ast
import builtins
import json
import re
import shlex
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from bundle_runs import BUNDLES, ROOT, Shipped, causes, each_bundle
from monai.bundle import ConfigParser

from monai_jsma.__main__ import build_parser
from monai_jsma.cli.bundles import find_configs
from monai_jsma.networks import AllPatches, Draws, LeaveOneOut, Pathwise, TopK

BASELINES = (
    "all_patches", "attention_mil", "balanced_random_patches", "random_patches", "thumbnail_only", "whole_image",
)  # fmt: skip
TAKEN_BY_INFERENCE = (
    *BASELINES,
    "aligned",
    "auto_magnifications",
    "draws",
    "multilabel",
    "one_place",
    "ordinal",
    "paper",
    "pretrained",
    "zoom",
)  # overlays that inference is given too
ENTRIES = {"imports", "initialize", "run", "training", "evaluating", "finalize"}  # what MONAI or the user calls by name
ADDITIONS = {
    "demo": set(),
    "frozen": set(),
    "mean_features": {"fit_loader"},
    "single_magnification": {"single_magnification"},
    **dict.fromkeys(TAKEN_BY_INFERENCE, set()),
    "auto_magnifications": {"picture_size"},
    "zoom": {
        "zoom_region_size",
        "region_thumbnail_size",
        "slide_backbone",
        "slide_norm",
        "tissue_power",
        "region_weights",
    },
    "evaluate": {
        "load_path", "evaluating", "saver", "validate#dataloader#collate_fn",
        "validate#inferer#seed",
        "validate#additional_metrics#val_auc_roc", "validate#additional_metrics#val_average_precision",
    },
    "multi_gpu_train": {
        "backend", "local_rank", "device_ids", "finalize",
        "train#sampler", "validate#sampler", "validate#dataloader#sampler",
    },
    "multi_gpu_inference": {
        "backend", "local_rank", "finalize", "distributed_sampler", "dataloader#sampler",
    },
}  # fmt: skip
EACH_CONFIG = [(shipped, config) for shipped in BUNDLES.values() for config in shipped.configs]
EACH_OVERLAY = [(shipped, config) for shipped, config in EACH_CONFIG if config in ADDITIONS]
# What is TCGA-PRAD's own in each configuration; the first word of a line.
OWN = {"num_classes", "mpp", "default_mpp", "thumbnail_size", "region_size"}


def base_of(overlay: str) -> str:
    """The configuration that an overlay is put on."""
    return "inference" if overlay.endswith("inference") else "train"


def named(pairs: list[tuple[Shipped, str]]) -> pytest.MarkDecorator:
    """Parametrises a test by bundles and configurations."""
    ids = [f"{shipped.folder.name}-{config}" for shipped, config in pairs]
    return pytest.mark.parametrize(("shipped", "name"), pairs, ids=ids)


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


@named([pair for pair in EACH_CONFIG if pair[1] in ("train", "inference")])
def test_every_name_is_used(shipped, name):
    overlays = [config for other, config in shipped.configs.items() if other in ADDITIONS and base_of(other) == name]
    found = parts(shipped.configs[name])
    used = {k: references([v for other, v in found.items() if other != k] + overlays) for k in found}
    unused = [k for k in found if k not in ENTRIES and not any(f"{r}#".startswith(f"{k}#") for r in used[k])]
    assert unused == []


@named(EACH_CONFIG)
def test_every_import_is_used_and_every_name_is_imported(shipped, name):
    config = shipped.configs[name]
    own, used = imports(config), code_names(config)
    assert used | {"monai_jsma"} == own | imports(shipped.configs["train"])  # without it no short name resolves
    assert own <= used


@named(EACH_OVERLAY)
def test_overlays_override_what_is_there(shipped, name):
    base, overlay = shipped.configs[base_of(name)], shipped.configs[name]
    parser = ConfigParser(base)
    added = {key.removeprefix("+") for key in overlay if key.removeprefix("+") not in parser}
    assert added == ADDITIONS[name]
    known = set(parts(base)) | set(parts(overlay))
    assert {"#".join(r.split("#")[:2]) for r in references(overlay)} <= known


@named([pair for pair in EACH_CONFIG if pair[1] in TAKEN_BY_INFERENCE])
def test_overlays_fit_inference_too(shipped, name):
    """All that is set or added is there in inference as well, apart from what concerns the training alone."""
    overlay, inference = shipped.configs[name], shipped.configs["inference"]
    of_training = {
        "alpha", "regularizer", "balanced", "weights", "epochs", "orientation_prob", "stain_prob",
        "lr", "lr_thumbnail_backbone", "lr_patch_backbone", "region_epochs", "zoom_epochs",
    }  # fmt: skip
    assert set(overlay) - set(inference) - ADDITIONS[name] <= of_training
    read = {key: value for key, value in overlay.items() if key not in of_training}
    assert references(read) <= set(inference) | ADDITIONS[name]


@each_bundle
def test_the_overlay_restores_the_paper(shipped):
    train = {**shipped.configs["train"], **shipped.configs["paper"]}
    its_own = {
        "bach": {"num_classes": 4, "mpp": 0.42, "default_mpp": "@mpp", "thumbnail_size": [224, 299]},
        "tcga_prad": {"num_classes": 3, "mpp": 1.0, "default_mpp": None, "thumbnail_size": [299, 299]},
    }[shipped.folder.name]
    paper = {
        "patch_size": 299, "num_patches": 5,
        "sampler": {"_target_": "monai_jsma.networks.Pathwise", "k": "@num_patches", "estimator": "paper"},
        "inference_sampler": "$@sampler.for_evaluation()",
        "magnifications": "$[4 * @mpp, 2 * @mpp, @mpp]",
        "thumbnail_backbone": "inception_v3", "patch_backbone": "inception_v3", "weights": "imagenet",
        "normalization": "sigmoid", "level_prior": None, "attention_dropout": 0.2, "feature_norm": None,
        "thumbnail_norm": None, "dropout": 0.5, "freeze_norm": False, "alpha": 0.01,
        "regularizer": "entropy", "lr": 1e-4, "lr_patience": 25, "lr_factor": 0.1, "epochs": 100, "val_interval": 1,
        "batch_size": 8, "balanced": False, **its_own,
    }  # fmt: skip
    assert {name: train[name] for name in paper} == paper
    assert train["optimizer"]["_target_"] == "torch.optim.Adam"


@each_bundle
def test_the_defaults_are_what_was_measured_to_work(shipped):
    """And the rest is the paper's: its overlay changes these and nothing else."""
    measured = {
        "normalization": "softmax", "level_prior": "balanced", "attention_dropout": 0.0, "feature_norm": "l2",
        "regularizer": "kl", "balanced": True,
    }  # fmt: skip
    train, paper = shipped.configs["train"], shipped.configs["paper"]
    assert {name: train[name] for name in measured} == measured
    parser = ConfigParser(deepcopy(train))
    assert parser.get_parsed_content("sampler") == LeaveOneOut(5)
    assert parser.get_parsed_content("inference_sampler") == TopK(5)
    assert {name for name in paper if paper[name] != train[name]} == {*measured, "sampler", "inference_sampler"}


def test_the_demo_learns_as_the_bundle_does():
    """Pictures, networks and their schedule are its own; what the attention learns from is not."""
    own = set(BUNDLES["bach"].configs["demo"])
    assert own == {
        "num_classes", "mpp", "thumbnail_size", "patch_size", "num_patches", "inference_patches", "thumbnail_backbone",
        "patch_backbone", "weights", "dropout", "lr", "epochs", "val_interval", "batch_size", "num_workers",
        "cache_rate", "stain_prob",
    }  # fmt: skip


@each_bundle
def test_training_and_inference_are_of_one_network_and_one_view(shipped):
    train, inference = shipped.configs["train"], shipped.configs["inference"]
    assert train["network_def"] == inference["network_def"]
    for name in ("deterministic_transforms", "thumbnail_transforms"):
        assert train["train"][name] == inference[name]
    view = "@{0}deterministic_transforms + @{0}thumbnail_transforms"
    assert train["validate"]["preprocessing"]["transforms"] == "$" + view.format("train#")
    assert inference["preprocessing"]["transforms"] == "$" + view.format("")
    shared = set(train) & set(inference) - {"batch_keys", "max_pictures", "output_dir", "run", "initialize"}
    assert train["initialize"][1:] == inference["initialize"][1:]  # the first checks against the file itself
    assert {name: train[name] for name in shared} == {name: inference[name] for name in shared}
    assert {"mpp", "thumbnail_size", "patch_size", "num_patches", "magnifications", "sampler"} <= shared


@pytest.mark.parametrize("config", ["train", "inference"])
@each_bundle
def test_convolutions_run_with_channels_last(shipped, config):
    parser = ConfigParser()
    parser.read_config(shipped.folder / "configs" / f"{config}.json")
    parser["thumbnail_backbone"] = parser["patch_backbone"] = "test_resnet"
    weights = [p for p in parser.get_parsed_content("network").parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert any(not p.is_contiguous() for p in weights)


@pytest.mark.parametrize("config", ["train", "inference"])
@each_bundle
def test_the_patch_encoder_may_end_behind_its_head(shipped, config):
    for patch_head, num_features in ((False, 288), (True, 1024)):
        parser = ConfigParser()
        parser.read_config(shipped.folder / "configs" / f"{config}.json")
        parser["patch_backbone"] = "mobilenetv3_small_050"
        parser["patch_head"] = patch_head
        assert parser.get_parsed_content("patch_encoder").num_features == num_features


def test_the_bundles_differ_only_in_what_is_their_own():
    one, other = (BUNDLES[name].folder / "configs" for name in ("bach", "tcga_prad"))
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    for path in other.iterdir():
        if path.stem == "metadata":
            continue
        pairs = list(zip((one / path.name).read_text().split("\n"), path.read_text().split("\n"), strict=True))
        own = {"train": OWN - {"region_size"}, "inference": OWN, "auto_magnifications": {"picture_size"}}
        differing = {re.match(r' {4}"(\w+)": ', line)[1] for pair in pairs if len(set(pair)) > 1 for line in pair}
        assert differing == own.get(path.stem, set()), path.name
    cards = [re.findall(r"^(?:## .*|\| \w.*?\|.*?\|)", shipped.card, re.MULTILINE) for shipped in BUNDLES.values()]
    assert cards[0] == cards[1]  # sections, and rows of the table up to their values
    plain = [{k: type(v) for k, v in shipped.metadata.items()} for shipped in BUNDLES.values()]
    assert plain[0] == plain[1]


def commands(text: str) -> list[list[str]]:
    """The commands of a page that run bundles, from its code blocks and from the code in its tables."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    code = blocks + re.findall(r"`((?:python|torchrun) [^`]+)`", text)
    lines = [line for block in code for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if "monai.bundle run" in line]


@each_bundle
@pytest.mark.parametrize("page", ["card", "docs/bundle.md"])
def test_commands_name_real_files_run_ids_and_settings(shipped, page):
    found = commands(shipped.card if page == "card" else (ROOT / page).read_text())
    assert len(found) >= 4
    for words in found:
        words = words[words.index("run") + 1 :]
        run_id = "run" if words[0].startswith("--") else words.pop(0)
        options = dict(zip(words[::2], words[1::2], strict=True))
        files = options.pop("--config_file")
        files = json.loads(files.replace("'", '"')) if files.startswith("[") else [files]
        parser = ConfigParser()
        parser.read_config([str(shipped.folder / file) for file in files])
        assert run_id in parser
        kind = options.pop("--workflow_type", "train")
        assert (kind == "infer") == (files[0] == "configs/inference.json")
        assert all(name.removeprefix("--") in parser for name in options), options


@each_bundle
def test_the_page_lists_the_settings_in_the_order_of_the_file(shipped):
    page = (ROOT / "docs" / "bundle.md").read_text()
    table = page.split("| setting |")[1].split("\n\n")[0]
    listed = []
    for first_cell in re.findall(r"^\| (`[^|]*)\|", table, re.MULTILINE):
        listed += re.findall(r"`(\w+)`", first_cell)
    names = list(shipped.configs["train"])
    assert listed == names[names.index("bundle_root") : names.index("patch_encoder")]


@each_bundle
def test_the_card_agrees_with_the_configuration(shipped):
    settings = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| [^|]+ \|([^|]+)\|", shipped.card, re.MULTILINE)))
    assert len(settings) > 10
    assert set(settings) <= set(shipped.configs["train"])
    assert "x".join(map(str, reversed(shipped.size))) in shipped.card
    performance = shipped.card.split("## Performance")[1].split("\n## ")[0]
    measured = shipped.metadata["eval_metrics"]
    assert bool(measured) != ("Not run" in performance)
    assert all(str(value) in performance for value in measured.values())
    for words in re.findall(r"`python -m monai_jsma ([^`]+)`", shipped.card):
        build_parser().parse_args([*words.split(), "folder of the user"])


@each_bundle
@pytest.mark.parametrize("base", ["train", "inference"])
def test_aligned_patches_are_asked_of_the_network_and_of_the_files(shipped, base):
    parser = ConfigParser({**shipped.configs[base], **shipped.configs["aligned"]})
    loader = ("train#" if base == "train" else "") + "deterministic_transforms#0"
    for part in ("network_def", loader):
        settings = parser.get_parsed_content(part, instantiate=False).get_config()
        assert (settings["patch_size"], settings["aligned"]) == (256, True)


@each_bundle
@pytest.mark.parametrize("base", ["train", "inference"])
def test_where_one_place_decides_each_place_has_positions_of_its_own(shipped, base):
    """Where several places share one position of the thumbnail's map, they share their attention."""

    def positions(*overlays: str) -> tuple[int, int]:
        parser = ConfigParser()
        parser.read_config([shipped.folder / file for file in find_configs(shipped.folder, base, *overlays)])
        parser["feature_cache"] = None
        parser["class_names"] = None
        network = parser.get_parsed_content("network_def").eval()
        height, width = network.thumbnail_size
        section = "train#" if base == "train" else ""
        assert parser.get_parsed_content(f"{section}thumbnail_transforms#0#size") == [height, width]
        features = network.thumbnail_encoder(torch.zeros(1, 3, height, width))
        return tuple(features.shape[2:])

    places = 4  # of a side of a mosaic of 4 x 4
    assert min(positions("pretrained")) < 2 * places
    assert min(positions("pretrained", "one_place")) >= 3 * places


@each_bundle
@pytest.mark.parametrize("files", [("inference",), ("train", "evaluate")], ids=lambda files: files[-1])
@pytest.mark.parametrize("overlay", [None, *TAKEN_BY_INFERENCE])
def test_the_sampler_is_asked_of_the_network_and_recorded(shipped, files, overlay):
    """By every overlay; repeated draws are refused where nothing is drawn."""
    parser = ConfigParser()
    names = [files[0], *([overlay] if overlay else []), *files[1:]]
    parser.read_config([shipped.folder / file for file in find_configs(shipped.folder, *names)])
    inferer = "validate#inferer" if "train" in files else "inferer"
    usual = {
        "paper": TopK(5, normalize=False),
        "pretrained": Pathwise(10, estimator="systematic"),
        "balanced_random_patches": Pathwise(5, estimator="systematic"),
        "draws": Draws(LeaveOneOut(5), 16),
        "zoom": Pathwise(16, estimator="systematic", max_regions=10),
        "random_patches": Pathwise(5, estimator="normalized"),
        **dict.fromkeys(("all_patches", "attention_mil", "thumbnail_only", "whole_image"), AllPatches()),
    }.get(overlay, TopK(5))
    made = parser.get_parsed_content(inferer)
    assert (made.sampler, made.seed) == (usual, 0)
    assert parser.get_parsed_content("saver#settings")["sampler"] == repr(usual)

    parser["inference_sampler"] = "$monai_jsma.networks.Draws(@sampler, 3)"
    parser.parse(reset=True)
    if overlay in ("all_patches", "thumbnail_only", "whole_image"):
        with pytest.raises(RuntimeError) as raised:
            parser.get_parsed_content(inferer)
        assert any("which draws nothing at random" in str(error) for error in causes(raised.value))
    else:
        made = parser.get_parsed_content(inferer)
        assert made.sampler == Draws(parser.get_parsed_content("sampler"), 3)
        assert parser.get_parsed_content("saver#settings")["sampler"] == repr(made.sampler)
