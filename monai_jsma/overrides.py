# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Overrides of a bundle's configuration, checked once before anything is built.

MONAI puts any override (``--lr 3``) into the configuration, whatever its name and type: a mistyped name is ignored, and
the text ``false`` counts as true. The bundles therefore call :func:`check_overrides` first of all in ``initialize``.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow, run

from monai_jsma.failures import print_cause_last
from monai_jsma.geometry import may_be_decimal_commas

__all__ = ["check_overrides", "correct_settings"]

_logger = logging.getLogger(__name__)

# Settings that may be null, with an example of what they are otherwise.
_OPTIONAL: dict[str, Any] = {
    "class_weights": [1.0, 2.0],
    "default_mpp": 0.5,
    "early_stopping_patience": 10,
    "feature_cache": "features",
    "feature_norm": "l2",
    "level_prior": "balanced",
    "max_pictures": 4,
    "region_size": [2000, 2000],
    "thresholds": [0.5, 0.3],
    "thumbnail_backbone": "resnet18",
    "thumbnail_norm": "standardized",
    "unfreeze_epoch": 10,
    "weights": "imagenet",
}
# Settings that may be an object too: the name of an encoder and timm's own keywords, which timm checks.
_ENCODERS = frozenset({"thumbnail_backbone", "patch_backbone", "slide_backbone"})
# What MONAI or the user calls by name, so that nothing in the configuration refers to it.
_PROGRAMS = frozenset({"_meta_", "imports", "initialize", "run", "training", "evaluating", "finalize"})
_RUN_OPTIONS = ("run_id", "init_id", "final_id", "config_file", "meta_file", "logging_file", "args_file", "tracking")

_YES = frozenset({"true", "yes", "on", "1"})
_NO = frozenset({"false", "no", "off", "0"})
_NULL = _NO | {"none", "null", ""}

_UNKNOWN = object()  # the type of a setting that only a run can tell


class _ValueTypeError(ValueError):
    """What was expected in place of a value."""


def check_overrides(name: str) -> None:
    """Check the overrides of the running workflow, and put the values that are meant in place of words for yes and no.

    The configuration itself calls it, first in ``initialize``: ``"$monai_jsma.overrides.check_overrides('train')"``.
    On MONAI's command line, the reason of any later error will be the last line that is printed. Outside of a
    :class:`monai.bundle.ConfigWorkflow` the folder of the bundle is not known, and nothing is done.

    Args:
        name: name of the bundle's own configuration that the overrides are checked against.

    Raises:
        ValueError: if an override has an unknown name or a value of a wrong type; it names all of them.
    """
    workflow = None
    overrides: dict[str, Any] = {}
    for frame in _list_callers():
        caller = frame.f_locals.get("self")
        if workflow is None and isinstance(caller, ConfigWorkflow):
            workflow = caller
        if frame.f_code is create_workflow.__code__:
            arguments = frame.f_locals["kwargs"]
            overrides.update({key: value for key, value in arguments.items() if value is not None})
        if frame.f_code is run.__code__:
            overrides.update(frame.f_locals["override"])  # with None, over which MONAI passes
            print_cause_last()
            _check_comments(sys.argv, overrides)
    if workflow is None:
        return

    programs = [workflow.init_id, workflow.run_id, workflow.final_id]
    file = Path(workflow.config_root_path) / f"{name}.json"
    correct_settings(workflow.parser, file, overrides=overrides, programs=programs)


def _list_callers() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def correct_settings(
    parser: ConfigParser, file: Path, *, overrides: Mapping[str, Any] | None = None, programs: Iterable[str] = ()
) -> None:
    """Check a configuration against the bundle's own, and put the values that are meant in place of words for them.

    Args:
        parser: the configuration with all overlays and overrides.
        file: the bundle's own configuration; without this file nothing is checked.
        overrides: overrides as they were written, where that is known; None stands for null.
        programs: names of what is run, which nothing need refer to.

    Raises:
        ValueError: if the configuration has a setting that nothing uses, or a value of a wrong type; it names all.
    """
    if not file.is_file():
        return
    overrides = {name.replace("::", "#"): value for name, value in (overrides or {}).items()}
    nulls = [name for name, value in overrides.items() if value is None]
    for name in nulls:
        parser[name] = None

    own = ConfigParser.load_config_file(file)
    config: Any = parser.config
    entries = _PROGRAMS.union(programs)
    faults = _find_unused(config, own, entries | _find_known(config, own, file))
    corrections = {}
    examples = _Examples(own)
    for name, value, own_value in _compare(config, own):
        if name in entries or _is_object_of_encoders(name, value):
            continue
        example = examples.find(name, own_value)
        try:
            corrected = _correct_value(value, example, is_optional=name in _OPTIONAL or own_value is None)
            _check_commas(name, value)
        except _ValueTypeError as error:
            faults.append(f"'{name}': expected {error}, but got {value!r}")
            continue
        if corrected is not value:
            corrections[name] = corrected
    if faults:
        raise ValueError(f"{file}: {'; '.join(faults)}.")

    for name, text in _list_texts(config):
        if not name.startswith("_meta_") and not name.endswith("_desc_"):
            expression = _keep_number_signs(text, overrides.get(name))
            if expression != text:
                corrections[name] = expression
    for name, value in corrections.items():
        parser[name] = value
    if corrections or nulls:
        parser.parse(reset=True)
    checked: Any = parser.config
    _check_certified(checked, file)
    _warn_of_silenced(checked, own, overrides, entries=entries, file=file)


def _check_certified(config: Mapping[str, Any], file: Path) -> None:
    """Raise ValueError if labels are to be certified with features of any length, before hours of training.

    Args:
        config: the whole configuration.
        file: the bundle's own configuration, for the message.
    """
    if "feature_norm" not in config or config["feature_norm"] is not None:
        return
    sampler = str(config.get("inference_sampler"))
    for name in ("Certified", "Confident"):
        if name in sampler:
            raise ValueError(
                f"{file}: 'inference_sampler' is {name}, which needs features of length 1, but 'feature_norm' is null, "
                "as in paper.json: train with 'feature_norm' l2 or standardized, or evaluate with another sampler, as "
                "TopK or AllPatches."
            )


# ------------------------------------------------------------------------------------------------------------- silenced


def _warn_of_silenced(
    config: Any, own: Mapping[str, Any], overrides: Mapping[str, Any], *, entries: frozenset[str], file: Path
) -> None:
    """Say in one line which overrides change nothing, as another setting or an overlay makes them useless.

    Args:
        config: the whole configuration.
        own: the bundle's own configuration, where each of them changes something.
        overrides: what was typed, by name.
        entries: names of what is run.
        file: the bundle's own configuration.
    """
    reached = _find_reached(config, entries)
    reached_in_own = _find_reached(own, entries)
    lines = []
    for name in overrides:
        if _is_used(name, reached_in_own) and not _is_used(name, reached):
            lines.append(f"'{name}' changes nothing, as nothing that is run uses it with these overlays")
    for name, other in _list_conflicts(config):
        is_typed = name in overrides or (name == "feature_cache" and other in overrides)
        if is_typed:
            lines.append(f"'{name}' changes nothing with {other} {config[other]!r}")
    if lines:
        _logger.warning("%s: %s.", file, "; ".join(lines))


def _find_reached(config: Any, entries: frozenset[str]) -> set[str]:
    """The names of all that the programs refer to, and what that refers to, and so on."""
    reached: set[str] = set()
    waiting = set(entries & set(config))
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= _list_references(_find_part(config, name)) - reached
    return reached


def _find_part(config: Any, name: str) -> Any:
    """The part of a configuration that a reference names; None if there is none."""
    for key in name.split("#"):
        if isinstance(config, list) and key.isdecimal() and int(key) < len(config):
            config = config[int(key)]
        elif isinstance(config, dict):
            config = config.get(key)
        else:
            return None
    return config


def _list_conflicts(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of a setting that has no effect, and of the other one that takes it."""
    if config.get("feature_cache") is not None:
        for name in ("stain_prob", "crop_prob"):  # such views never occur twice, so none of their patches is kept
            if _is_number(config.get(name)) and config[name] > 0:
                yield "feature_cache", name
    if "thumbnail_backbone" in config and config["thumbnail_backbone"] is None:
        yield "normalization", "thumbnail_backbone"
        if _is_number(config.get("alpha")) and config["alpha"] > 0:
            yield "alpha", "thumbnail_backbone"
    for name, sampler in (("num_patches", "sampler"), ("inference_patches", "inference_sampler")):
        if "AllPatches" in str(config.get(sampler)):
            yield name, sampler
    if config.get("warmup_epochs") == 0:
        yield "warmup_patches", "warmup_epochs"
    if config.get("resume") is True:
        yield "weights", "resume"


# ---------------------------------------------------------------------------------------------------------------- names


def _find_unused(config: Any, own: Mapping[str, Any], entries: frozenset[str]) -> list[str]:
    """The faults of settings that the bundle does not have, and that nothing refers to."""
    references = _list_references(config)
    faults = []
    for name, value in _list_new(config, own):
        if name in entries or _is_used(name, references) or _is_repeated(value, config):
            continue
        similar = _find_similar(name, [*_list_names(own), *_RUN_OPTIONS])
        names = " or ".join(f"'{match}'" for match in similar)
        hint = f" (similar: {names})" if names else ""
        faults.append(f"'{name}' is no setting of this configuration, and nothing uses it{hint}")
    return faults


def _find_similar(name: str, names: Sequence[str]) -> list[str]:
    """At most two names that may be meant: first those that begin alike without underscores, then similar ones."""
    beginning = name.replace("_", "")
    alike = [other for other in names if other.replace("_", "").startswith(beginning)]
    alike += difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    return list(dict.fromkeys(alike))[:2]


def _find_known(config: Mapping[str, Any], own: Mapping[str, Any], file: Path) -> set[str]:
    """Names beyond the bundle's own that are right in another of its configurations, where they do something.

    One overlay is often put on training and inference alike. What an overlay of the bundle itself sets is passed over;
    of other settings a warning says that they change nothing.
    """
    new = dict(_list_new(config, own))
    if not new:
        return set()
    known = set()
    for overlay in [*file.parent.glob("*.json"), *file.parent.parent.parent.glob("variants/*.json")]:
        for name, value in ConfigParser.load_config_file(overlay).items():
            if name in new and new[name] == value:
                known.add(name)

    for base in ("train", "inference"):
        other = file.with_name(f"{base}.json")
        if other == file or not other.is_file():
            continue
        unused = sorted(set(ConfigParser.load_config_file(other)) & set(new) - known)
        known.update(unused)
        if unused:
            _logger.warning("%s: settings of %s change nothing here: %s.", file, other.name, ", ".join(unused))
    return known


def _list_new(config: Mapping[str, Any], own: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values that a configuration has beyond the bundle's own, in its sections too.

    Further arguments of a component are not listed: the component itself knows which it has.
    """
    for key, value in config.items():
        name = f"{section}{key}"
        if key not in own:
            yield name, value
        elif _is_section(value) and _is_section(own[key]):
            yield from _list_new(value, own[key], f"{name}#")


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" not in value


def _list_names(own: Mapping[str, Any], section: str = "") -> Iterator[str]:
    for key, value in own.items():
        yield f"{section}{key}"
        if _is_section(value):
            yield from _list_names(value, f"{section}{key}#")


def _list_references(config: Any) -> set[str]:
    """The names behind ``@`` and ``%`` in all texts of a configuration."""
    references = set()
    for _, text in _list_texts(config):
        for reference in re.findall(r"[@%](\w+(?:(?:#|::)\w+)*)", text):
            references.add(reference.replace("::", "#"))
    return references


def _list_texts(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of all texts of a configuration."""
    if isinstance(config, str):
        yield name, config
        return
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(config, dict):
        entries = config.items()
    elif isinstance(config, (list, tuple)):
        entries = enumerate(config)
    for key, value in entries:
        yield from _list_texts(value, f"{name}#{key}" if name else str(key))


def _is_used(name: str, references: set[str]) -> bool:
    """Whether something refers to a setting, to a part of it, or to what it is a part of."""
    parts_and_itself = f"{name}#"
    if any(f"{reference}#".startswith(parts_and_itself) for reference in references):
        return True
    return any(name.startswith(f"{reference}#") for reference in references)


def _is_repeated(value: Any, config: Any) -> bool:
    """Whether a list or dictionary stands in the configuration twice: MONAI has copied it to where ``%`` named it."""
    if not isinstance(value, (dict, list)) or not value:
        return False
    return _count_equal(value, config) > 1


def _count_equal(value: Any, config: Any) -> int:
    count = int(config == value)
    if isinstance(config, dict):
        count += sum(_count_equal(value, part) for part in config.values())
    elif isinstance(config, list):
        count += sum(_count_equal(value, part) for part in config)
    return count


# --------------------------------------------------------------------------------------------------------------- values


class _Examples:
    """What the settings of the bundle's own configuration are, for their type.

    Args:
        own: the bundle's own configuration.
    """

    def __init__(self, own: Mapping[str, Any]) -> None:
        settings = {}
        for name, value in own.items():
            if name not in _PROGRAMS and not isinstance(value, dict):
                settings[name] = value
        self._parser = ConfigParser(settings)  # without components and imports: only plain expressions have a value

    def find(self, name: str, own_value: Any) -> Any:
        """An example of a setting; ``_UNKNOWN`` if its type is known in a run only.

        Args:
            name: name of the setting.
            own_value: its value in the bundle's own configuration, maybe a reference or an expression.
        """
        value = own_value
        if _is_evaluated(value):
            value = self._evaluate(value)
        if value is None:
            value = _OPTIONAL.get(name, _UNKNOWN)
        return value

    def _evaluate(self, text: str) -> Any:
        parser = ConfigParser({**self._parser.get(), "_example_": text})
        try:
            return parser.get_parsed_content("_example_")
        except Exception:  # it needs a component, a file or a module that only a run has
            return _UNKNOWN


def _is_evaluated(value: Any) -> bool:
    """Whether MONAI replaces a text by something else: an expression, a reference, a macro."""
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def _compare(config: Any, own: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, value and the bundle's own value of each setting that differs."""
    if isinstance(config, dict) and isinstance(own, dict) and config.get("_target_") == own.get("_target_"):
        pairs = [(key, config[key], own[key]) for key in config if key in own]
    elif isinstance(config, list) and isinstance(own, list) and len(config) == len(own) and _has_parts(own):
        pairs = list(zip(range(len(own)), config, own))
    else:
        if type(config) is not type(own) or config != own:
            yield name, config, own
        return
    for key, value, own_value in pairs:
        yield from _compare(value, own_value, f"{name}#{key}" if name else str(key))


def _is_object_of_encoders(name: str, value: Any) -> bool:
    """Whether a setting is an encoder with keywords, or the weights of each encoder."""
    if not isinstance(value, dict):
        return False
    if name == "weights":
        return bool(value) and set(value) <= _ENCODERS
    return name in _ENCODERS and "name" in value


def _has_parts(values: list[Any]) -> bool:
    return any(isinstance(value, dict) for value in values)


def _correct_value(value: Any, example: Any, *, is_optional: bool) -> Any:
    """The value that is meant.

    Args:
        value: value of the override.
        example: a value of the right type.
        is_optional: whether null is such a value too.

    Raises:
        _ValueTypeError: if it is of another type; the message says what was expected.
    """
    is_component = isinstance(value, dict) and "_target_" in value
    if example is _UNKNOWN or _is_evaluated(value) or is_component:
        return value
    if is_optional and _is_null(value, example):
        return None
    suffix = " or null" if is_optional else ""

    if isinstance(example, bool):
        return _correct_bool(value)
    if isinstance(example, int):
        if not _is_number(value) or not isinstance(value, int):
            raise _ValueTypeError(f"a whole number{suffix}")
    elif isinstance(example, float):
        if not _is_number(value):
            raise _ValueTypeError(f"a number{suffix}{_explain_comma(value)}")
    elif isinstance(example, str):
        return _correct_text(value, suffix)
    elif isinstance(example, list):
        return _correct_list(value, example, suffix)
    elif isinstance(example, dict) and not isinstance(value, dict):
        raise _ValueTypeError("an object in braces, as the configuration has it")
    return value


def _is_null(value: Any, example: Any) -> bool:
    """Whether a value of an optional setting is a word for null.

    Of numbers only "none" and "null" are: null pictures are all of them, and "no pictures" would be 0.
    """
    word = str(value).strip().lower()
    if isinstance(example, (int, float)):
        return word in ("none", "null")
    return word in _NULL and isinstance(value, (str, int, type(None)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_commas(name: str, value: Any) -> None:
    """Check that a list was not made of decimal commas.

    MONAI's command line makes a tuple of numbers with commas and no brackets: 0,25 is (0, 25).

    Raises:
        _ValueTypeError: if it likely was.
    """
    if not isinstance(value, (tuple, list)) or not all(type(number) is int for number in value):
        return
    numbers = list(value)
    is_doubtful = isinstance(value, tuple) and 0 in value
    if name == "magnifications":
        is_doubtful = min(numbers, default=1) <= 0
        if isinstance(value, tuple):
            is_doubtful = may_be_decimal_commas(numbers)
    if not is_doubtful:
        return
    way_out = "" if 0 in value else f", or brackets if {numbers} is meant"
    raise _ValueTypeError(f"numbers with decimal points, not commas{way_out}")


def _explain_comma(value: Any) -> str:
    is_comma = isinstance(value, tuple) and len(value) == 2
    if isinstance(value, str):
        is_comma = re.fullmatch(r"\s*[+-]?\d+,\d+\s*", value) is not None
    return " with a decimal point, not a comma" if is_comma else ""


def _correct_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if isinstance(value, (int, str)) and word in _YES:
        return True
    if isinstance(value, (int, str)) and word in _NO:
        return False
    raise _ValueTypeError("true or false (yes, no, on, off, 1, 0)")


def _correct_text(value: Any, suffix: str) -> str:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        raise _ValueTypeError(f"a text{suffix} (quote it twice if it looks like a number: \"'{value}'\")")
    raise _ValueTypeError(f"a text{suffix} (quote it twice if it holds commas or brackets)")


def _correct_list(value: Any, example: list[Any], suffix: str) -> list[Any]:
    expected = f"a list such as {example}{suffix}"
    if not isinstance(value, (list, tuple)):
        raise _ValueTypeError(expected)
    are_whole = all(type(number) is int for number in example)
    for number in value:
        is_whole = isinstance(number, int) and not isinstance(number, bool)
        if are_whole and not is_whole and not _is_evaluated(number):
            raise _ValueTypeError(expected)
    return value if isinstance(value, list) else list(value)


# --------------------------------------------------------------------------------------------------------------- paths


def _keep_number_signs(text: str, written: Any) -> str:
    """An expression for a plain text with a ``#``, of which MONAI makes ``::`` everywhere; else the text itself.

    Args:
        text: a text of the configuration.
        written: the same text as it was written, if that is known.
    """
    if not isinstance(written, str):
        written = text.replace("::", "#")
    if "#" not in written or _is_evaluated(text):
        return text
    literal = repr(written).replace("#", r"\x23").replace("@", r"\x40")  # nor is the escape a reference
    return f"${literal}"


def _check_comments(arguments: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """Check that no value of the command line has lost what follows a ``#``: it is parsed as Python, with comments.

    Raises:
        ValueError: if one has.
    """
    for position, argument in enumerate(arguments):
        option, equals, text = argument.partition("=")
        name = option.removeprefix("--")
        if not equals:
            text = "".join(arguments[position + 1 : position + 2])
        if name not in overrides or "#" not in text or "#" in str(overrides[name]):
            continue
        raise ValueError(
            f"'{name}': of '{text}' only {overrides[name]!r} arrived, as '#' begins a comment there; quote it twice: "
            f"--{name} \"'{text}'\"."
        )
