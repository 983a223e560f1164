# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Overrides of the bundles: names and types are checked before anything is built; words for no mean no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bundle_runs import BUNDLES, causes, command, copy_bundle, each_bundle, execute, make_pictures, workflow
from monai.bundle import ConfigParser

from monai_jsma.cli.bundles import find_configs, read_config
from monai_jsma.overrides import correct_settings

TAKEN_BY_INFERENCE = (
    "aligned",
    "all_patches",
    "attention_mil",
    "balanced_random_patches",
    "draws",
    "mean_features",
    "one_place",
    "paper",
    "random_patches",
    "thumbnail_only",
    "whole_image",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A bundle that no test changes."""
    return copy_bundle(tmp_path_factory.mktemp("overrides"))


def read(bundle: Path, *configs: str, **overrides: Any) -> ConfigParser:
    """The checked configuration with overrides whose names may hold ``__`` for ``#``."""
    parser = ConfigParser()
    parser.read_config([str(bundle / file) for file in find_configs(bundle, *configs)])
    parser.update({name.replace("__", "#"): value for name, value in overrides.items()})
    correct_settings(parser, bundle / "configs" / f"{configs[0]}.json")
    return parser


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("magnifications", (0, 25)),
        ("magnifications", [0, 25]),
        ("magnifications", (1, 68)),
        ("magnifications", (2, 5)),
        ("magnifications", (1, 68, 0, 84)),
        ("class_weights", (0, 5, 1)),
    ],
)
def test_lists_of_decimal_commas_are_asked_for(bundle, name, value):
    """MONAI's command line makes (0, 25) of 0,25."""
    with pytest.raises(ValueError, match=f"'{name}': expected numbers with decimal points, not commas.*but got"):
        read(bundle, "train", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("magnifications", (4, 2, 1)),
        ("magnifications", [2, 5]),
        ("magnifications", (1.68, 0.84)),
        ("magnifications", ("50X", "100X")),
        ("class_weights", (2, 5)),
        ("class_weights", [0, 5, 1]),
    ],
)
def test_lists_of_numbers(bundle, name, value):
    assert read(bundle, "train", **{name: value})[name] == list(value)


SILENCED = [  # overlays, what is typed, the names that the warning has
    (["frozen"], {"stain_prob": 0.5}, ["'feature_cache' changes nothing with stain_prob 0.5"]),
    (["frozen"], {"crop_prob": 0.3}, ["'feature_cache' changes nothing with crop_prob 0.3"]),
    ([], {"feature_cache": "f", "freeze_patch_backbone": True}, ["'feature_cache' changes nothing with stain_prob"]),
    (["attention_mil"], {"thumbnail_backbone": "resnet18"}, ["'thumbnail_backbone' changes nothing"]),
    (["attention_mil"], {"level_prior": None}, ["'level_prior' changes nothing"]),
    (["random_patches"], {"alpha": 0.1}, ["'alpha' changes nothing with thumbnail_backbone None"]),
    (["random_patches"], {"normalization": "sigmoid"}, ["'normalization' changes nothing with thumbnail_backbone"]),
    (["all_patches"], {"num_patches": 8}, ["'num_patches' changes nothing with sampler"]),
    (["all_patches"], {"inference_patches": 8}, ["'inference_patches' changes nothing"]),
    ([], {"warmup_patches": 9}, ["'warmup_patches' changes nothing with warmup_epochs 0"]),
    ([], {"resume": "yes", "weights": "my.pth"}, ["'weights' changes nothing with resume True"]),
    ([], {"magnifications": [1.0], "mpp": 0.3, "default_mpp": 0.3}, ["'mpp' changes nothing"]),
]


@pytest.mark.parametrize(("configs", "overrides", "told"), SILENCED)
def test_a_setting_that_another_makes_useless_is_told(bundle, caplog, configs, overrides, told):
    """In one line, which names both."""
    parser = ConfigParser()
    parser.read_config([str(bundle / file) for file in find_configs(bundle, "train", *configs)])
    parser.update(overrides)
    correct_settings(parser, bundle / "configs" / "train.json", overrides=overrides)
    (line,) = [record.getMessage() for record in caplog.records]
    for text in told:
        assert text in line


@pytest.mark.parametrize("configs", [["train"], ["train", "evaluate"], ["inference"], ["train", "frozen"]])
def test_no_setting_is_useless_in_the_bundle_itself(bundle, caplog, configs):
    parser = ConfigParser()
    parser.read_config([str(bundle / file) for file in find_configs(bundle, *configs)])
    useless = {"inference_patches", "warmup_patches", "resume"}  # with the values that they have
    if "evaluate" in configs:
        useless |= {"picture_interval", "picture_panels"}  # an evaluation writes nothing to TensorBoard
    settings = {name: value for name, value in parser.config.items() if not isinstance(value, (dict, list))}
    overrides = {name: value for name, value in settings.items() if name not in useless and value is not None}
    if configs == ["train", "frozen"]:
        overrides = {"orientation_prob": 1.0, "feature_cache": "f", "stain_prob": 0.0}
    parser.update(overrides)
    correct_settings(parser, bundle / "configs" / f"{configs[0]}.json", overrides=overrides)
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("resume", "false", False),
        ("resume", "Yes", True),
        ("resume", 1, True),
        ("balanced", "no", False),
        ("balanced", "off", False),
        ("balanced", 0, False),
        ("amp", "false", False),
        ("aligned", "on", True),
        ("weights", "none", None),
        ("weights", False, None),
        ("weights", "my.pth", "my.pth"),
        ("feature_cache", "no", None),
        ("default_mpp", "none", None),
        ("default_mpp", 1, 1),
        ("max_pictures", "none", None),
        ("max_pictures", 0, 0),
        ("early_stopping_patience", "none", None),
        ("lr", 1, 1),
        ("thumbnail_size", (64, 96), [64, 96]),
        ("output_dir", Path("results/a"), "results/a"),
        ("epochs", "$2 + 3", 5),
        ("warmup_patches", "@inference_patches", 5),
        ("magnifications", "$[2 * @mpp]", [0.84]),
        ("train__dataloader__shuffle", "no", False),
    ],
)
def test_the_meant_value_is_used(bundle, name, value, meant):
    found = read(bundle, "train", **{name: value}).get_parsed_content(name.replace("__", "#"), instantiate=False)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("resume", "flase", "'resume': expected true or false (yes, no, on, off, 1, 0), but got 'flase'"),
        ("resume", 2, "'resume': expected true or false (yes, no, on, off, 1, 0), but got 2"),
        ("alpha", (0, 1), "'alpha': expected a number with a decimal point, not a comma, but got (0, 1)"),
        ("alpha", "0,01", "'alpha': expected a number with a decimal point, not a comma, but got '0,01'"),
        ("default_mpp", (0, 25), "'default_mpp': expected a number or null with a decimal point, not a comma"),
        ("lr", "fast", "'lr': expected a number, but got 'fast'"),
        ("lr", float("nan"), "'lr': expected a number, but got nan"),
        ("lr", True, "'lr': expected a number, but got True"),
        ("epochs", 2.5, "'epochs': expected a whole number, but got 2.5"),
        ("epochs", None, "'epochs': expected a whole number, but got None"),
        ("early_stopping_patience", "5x", "'early_stopping_patience': expected a whole number or null, but got '5x'"),
        ("max_pictures", "no", "'max_pictures': expected a whole number or null, but got 'no'"),
        ("thumbnail_size", 224, "'thumbnail_size': expected a list such as [224, 299], but got 224"),
        ("thumbnail_size", [224, 0.5], "'thumbnail_size': expected a list such as [224, 299], but got [224, 0.5]"),
        ("output_dir", 2024, "'output_dir': expected a text (quote it twice if it looks like a number: \"'2024'\")"),
        ("output_dir", ("a", "b"), "'output_dir': expected a text (quote it twice if it holds commas or brackets)"),
        ("sampler", "paper", "'sampler': expected an object in braces, as the configuration has it, but got 'paper'"),
        ("train__trainer__max_epochs", "x", "'train#trainer#max_epochs': expected a whole number, but got 'x'"),
        ("train__random_transforms__1__prob", "x", "'train#random_transforms#1#prob': expected a number"),
        ("lrr", 3, "'lrr' is no setting of this configuration, and nothing uses it (similar: 'lr'"),
        ("datalist", "X", "and nothing uses it (similar: 'data_list_file_path' or 'dataset_dir')"),
        ("train__iferer", {"_target_": "A"}, "'train#iferer' is no setting of this configuration, and nothing uses it"),
        ("runid", "training", "(similar: 'run_id'"),
        ("picture_size", [10, 10], "'picture_size' is no setting"),  # of an overlay that is not there
    ],
)
def test_a_wrong_override_is_named(bundle, name, value, message):
    with pytest.raises(ValueError, match=r"train\.json: ") as raised:
        read(bundle, "train", **{name: value})
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{bundle / 'configs' / 'train.json'}: ")
    assert "\n" not in str(raised.value)


def test_all_wrong_overrides_are_named_at_once(bundle):
    with pytest.raises(ValueError, match=r"train.json: 'lrr' is no setting .*; 'resume': expected true .*\.$"):
        read(bundle, "train", lrr=3, resume="maybe")


def test_what_something_uses_may_be_added(bundle):
    """Metrics of the demo, handlers of an overlay, arguments of a component, and what a macro has copied."""
    added = {
        "validate__additional_metrics__truth": {"_target_": "monai_jsma.metrics.AttentionOnTruth"},
        "train__dataloader__pin_memory": True,
        "patience": 3,
        "early_stop": {"_target_": "EarlyStopHandler", "patience": "@patience"},
        "training": ["$@early_stop.attach(@validate#evaluator)"],
    }
    read(bundle, "train", **added)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.json"))
    parser["no_transforms"] = [{"_target_": "Identityd", "keys": "image"}]
    parser["train#random_transforms"] = "%no_transforms"
    parser.resolve_macro_and_relative_ids()
    correct_settings(parser, bundle / "configs" / "train.json")


@each_bundle
@pytest.mark.parametrize("base", ["train", "inference"])
def test_the_own_configurations_have_no_fault(shipped, base):
    for overlay in sorted(set(shipped.configs) - {"train", "inference"}):
        is_for_inference = overlay in TAKEN_BY_INFERENCE or overlay.endswith("inference")
        if is_for_inference if base == "inference" else not overlay.endswith("inference"):
            parser = ConfigParser()
            parser.read_config([str(shipped.folder / file) for file in find_configs(shipped.folder, base, overlay)])
            correct_settings(parser, shipped.folder / "configs" / f"{base}.json")


@each_bundle
def test_the_check_is_the_first_thing_that_is_done(shipped):
    for name in ("train", "inference", "multi_gpu_train", "multi_gpu_inference"):
        own = name.removeprefix("multi_gpu_")
        assert shipped.configs[name]["initialize"][0] == f"$monai_jsma.overrides.check_overrides('{own}')"


@pytest.mark.parametrize("configs", [("train",), ("train", "evaluate"), ("inference",)])
def test_a_workflow_checks_its_overrides(bundle, configs):
    with pytest.raises(RuntimeError) as raised:
        workflow(bundle, *configs, batch_sise=3)
    assert any("'batch_sise' is no setting" in str(error) for error in causes(raised.value))
    assert workflow(bundle, *configs, amp="off").parser.get_parsed_content("amp") is False


def test_a_number_sign_in_a_path_is_kept(tmp_path):
    folder = tmp_path / "run#1 @home"
    bundle = copy_bundle(tmp_path)
    make_pictures(folder, 2, 1, 1)
    made = workflow(bundle, "train", dataset_dir=str(folder), output_dir=str(folder / "eval"))
    assert made.parser.get_parsed_content("data_list_file_path") == f"{folder}/datalist.json"
    assert made.parser.get_parsed_content("output_dir") == f"{folder}/eval"
    assert len(made.parser.get_parsed_content("train#data")) == 2
    made = workflow(bundle, "train", log_dir="a::b", ckpt_dir="$'c' + 'd'")
    assert made.parser.get_parsed_content("log_dir") == "a::b"
    assert made.parser.get_parsed_content("ckpt_dir") == "cd"


def test_a_setting_of_the_other_configuration_is_told(bundle, caplog):
    """One overlay is often put on training and inference; a name that neither has is an error."""
    read(bundle, "inference", epochs=3, lr=0.1)
    message = f"{bundle / 'configs' / 'inference.json'}: settings of train.json change nothing here: epochs, lr."
    assert [record.message for record in caplog.records] == [message]
    caplog.clear()
    read(bundle, "inference", regularizer="entropy", balanced=False)  # as in paper.json
    assert not caplog.records
    with pytest.raises(ValueError, match=r"inference\.json: 'epoch' is no setting"):
        read(bundle, "inference", epoch=3)


def test_the_command_line_is_checked(tmp_path):
    """None, over which MONAI passes, is no too; a wrong value ends the command before the data are read."""
    bundle = copy_bundle(tmp_path)
    code, output = execute(command("training", "train", lr="0,01", resume="no"), bundle)
    assert code == 1
    assert "'lr': expected a number with a decimal point, not a comma, but got" in output
    code, output = execute(command("training", "train", output_dir="runs#1"), bundle)
    assert "'output_dir': of 'runs#1' only 'runs' arrived, as '#' begins a comment there; quote it twice" in output
    program = {"weights": "None", "resume": "false", "told": "$print('told', @weights, @resume)"}
    code, output = execute(command("told", "train", **program), bundle)
    assert (code, "told None False" in output) == (0, True), output


def test_values_of_compare_and_crossval_are_checked():
    folder = BUNDLES["bach"].folder
    with pytest.raises(ValueError, match="'lrr' is no setting"):
        read_config(folder, values={"lrr": "3"})
    with pytest.raises(ValueError, match=r"'alpha': expected a number with a decimal point"):
        read_config(folder, ["paper"], {"alpha": "0,5"})
    assert read_config(folder, values={"balanced": "no"})["balanced"] is False


def test_without_the_bundles_own_configuration_nothing_is_checked(tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"a": 1}))
    parser = ConfigParser({"b": 2})
    correct_settings(parser, tmp_path / "train.json")
    assert parser["b"] == 2


@pytest.mark.parametrize("name", ["Certified", "Confident"])
@pytest.mark.parametrize("config", ["train", "inference"])
def test_certificates_without_features_of_length_1_are_refused_at_the_start(bundle, config, name):
    sampler = f"$monai_jsma.networks.{name}(20)" if name == "Certified" else f"$monai_jsma.networks.{name}(0.99)"
    with pytest.raises(
        ValueError, match=f"'inference_sampler' is {name}, which needs features of length 1, but .* null"
    ):
        read(bundle, config, "paper", inference_sampler=sampler)
    read(bundle, config, inference_sampler=sampler)
    read(bundle, config, "paper", inference_sampler=sampler, feature_norm="l2")


@pytest.mark.parametrize("config", ["train", "inference"])
def test_any_sampler_may_be_given_to_a_zoom(bundle, config):
    """The one of its overlay has no settings of its own, which another would leave without effect."""
    read(bundle, config, "zoom", inference_sampler="$monai_jsma.networks.Confident(0.99)")


def test_the_word_none_is_no_feature_norm(bundle):
    component = {"_target_": "monai_jsma.networks.Certified", "max_patches": 20}
    with pytest.raises(ValueError, match="'inference_sampler' is Certified"):
        read(bundle, "train", inference_sampler=component, feature_norm="none")
