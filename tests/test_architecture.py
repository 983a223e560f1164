# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The architecture of the package: imports point one way, names are unique, calls name their arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import ROOT
from source_rules import (
    SourceTree,
    circles,
    foreign_private_names,
    similar_module_names,
    upward_imports,
    wide_signatures,
)

# The rooms from low to high: a file imports from its own room and from lower ones. "" is the root of the package, which
# loads the rooms on first use.
ORDER = [
    {"", "_version", "_io", "_moved", "_components", "failures", "geometry", "tasks", "zoom_geometry"},
    {"slides"},
    {"data"},
    {"datalists"},
    {"deploy"},
    {"transforms"},
    {"networks"},
    {"losses"},
    {"predictions"},
    {"visualize"},
    {"report"},
    {"inferers", "engines", "metrics", "handlers", "overrides"},
    {"viewer"},
    {"cli", "__main__"},
]

# What may differ from the rules, and why.
EXCEPTIONS = {
    "monai_jsma.cli.probes: imports the private module monai_jsma.networks._torchvision": (
        "the doctor's probe tries this very module in a process of its own"
    ),
    "monai_jsma.datalists.bach and monai_jsma.data.batch differ by one letter": "BACH is the name of the data set",
    "monai_jsma.geometry: PatchGeometry takes 5 positional arguments": (
        "data: size, spacing, magnifications and patch size are the grid, in the order of its definition"
    ),
}


@pytest.fixture(scope="module")
def package() -> SourceTree:
    return SourceTree(ROOT / "monai_jsma")


def without_exceptions(violations: list[str]) -> list[str]:
    return [line for line in violations if line not in EXCEPTIONS]


def test_no_exception_is_out_of_date(package):
    rules = (circles, foreign_private_names, similar_module_names, wide_signatures)
    violations = [line for rule in rules for line in rule(package)]
    assert set(EXCEPTIONS) - set(violations) == set()


def test_imports_point_to_lower_rooms(package):
    assert without_exceptions(upward_imports(package, ORDER)) == []


def test_no_file_imports_itself_through_others(package):
    assert without_exceptions(circles(package)) == []


def test_private_names_stay_in_their_file(package):
    assert without_exceptions(foreign_private_names(package)) == []


def test_module_names_are_unique_and_not_alike(package):
    assert without_exceptions(similar_module_names(package)) == []


def test_at_most_three_arguments_are_positional(package):
    assert without_exceptions(wide_signatures(package)) == []


# The rules find what is wrong in a small package.


@pytest.fixture
def write(tmp_path: Path):
    def write_package(**files: str) -> SourceTree:
        for name, text in files.items():
            path = tmp_path / "house" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            (path.parent / "__init__.py").touch()
        return SourceTree(tmp_path / "house")

    return write_package


LOW_TO_HIGH = [{""}, {"low"}, {"high"}]


@pytest.mark.parametrize(
    "statement",
    [
        "import house.high.b",
        "from house.high import b",
        "from house.high.b import f",
        "from ..high.b import f",
        "from ..high import b",
        "def g():\n    from house.high.b import f",
    ],
)
def test_an_upward_import_is_found(write, statement):
    package = write(low__a=statement, high__b="def f(): ...")
    assert upward_imports(package, LOW_TO_HIGH) == ["house.low.a: imports house.high.b"]


def test_a_downward_import_is_right(write):
    package = write(low__a="def f(): ...", high__b="from house.low.a import f\nfrom house.high import c", high__c="")
    assert upward_imports(package, LOW_TO_HIGH) == []
    assert circles(package) == []


def test_a_room_without_a_place_in_the_order_is_found(write):
    package = write(attic__a="")
    assert "house.attic.a: the room 'attic' has no place in the order" in upward_imports(package, LOW_TO_HIGH)


def test_every_circle_is_found(write):
    package = write(
        a__one="from house.a import two",
        a__two="def f():\n    from .one import g",
        b__three="import house.b.four",
        b__four="from house.b import five",
        b__five="from .three import x",
    )
    one, other = circles(package)
    assert set(one.split(" > ")) == {"house.a.one", "house.a.two"}
    assert set(other.split(" > ")) == {"house.b.three", "house.b.four", "house.b.five"}


@pytest.mark.parametrize(
    ("statement", "violation"),
    [
        ("from house.a.one import _f", "imports _f from house.a.one"),
        ("from house.a import one\none._f()", "uses ._f of another file"),
        ("def g(thing):\n    return thing._size", "uses ._size of another file"),
        ("from house.a._own import g", "imports the private module house.a._own"),
    ],
)
def test_a_private_name_of_another_file_is_found(write, statement, violation):
    one = "def _f(): ...\nclass A:\n    def __init__(self):\n        self._size = 1"
    package = write(a__one=one, a___own="def g(): ...", b__two=statement)
    assert foreign_private_names(package) == [f"house.b.two: {violation}"]


def test_private_names_of_the_file_its_package_and_libraries_are_right(write):
    text = """
from house.a import _own
from library import record

def _f(): ...

class A:
    _b = 1

    def g(self):
        return self._b, record._replace(a=_own), _f()
"""
    package = write(a__one=text, a___own="")
    assert foreign_private_names(package) == []


def test_module_names_that_are_alike_are_found(write):
    package = write(first__reader="", first__readers="", last__tiles="", last__tiled="", last__first="")
    assert similar_module_names(package) == [
        "house.first and house.last.first have the same name",
        "house.first.reader and house.first.readers differ by one letter",
        "house.last.tiled and house.last.tiles differ by one letter",
    ]


def test_module_names_that_differ_by_more_are_right(write):
    assert similar_module_names(write(first__table="", first__label="", last__tables_of="")) == []


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        ("def f(a, b, c, d): ...", "f takes 4 positional arguments"),
        ("class A:\n    def __init__(self, a, b, c, d=1): ...", "A.__init__ takes 4 positional arguments"),
        ("class A:\n    @staticmethod\n    def f(a, /, b, c, d): ...", "A.f takes 4 positional arguments"),
        (
            "@dataclass(frozen=True)\nclass A:\n    a: int\n    b: int\n    c: int\n    d: int = 1",
            "A takes 4 positional arguments",
        ),
    ],
)
def test_a_wide_signature_is_found(write, text, violation):
    assert wide_signatures(write(a__one=text)) == [f"house.a.one: {violation}"]


@pytest.mark.parametrize(
    "text",
    [
        "def f(a, b, c, *, d): ...",
        "def _f(a, b, c, d): ...",
        "class A:\n    def f(self, a, b, c): ...",
        "@dataclass(kw_only=True)\nclass A:\n    a: int\n    b: int\n    c: int\n    d: int",
        "@dataclass\nclass A:\n    a: int\n    b: int\n    c: int\n    _: KW_ONLY\n    d: int",
        "@dataclass\nclass A:\n    a: int\n    b: int\n    c: int\n    d: int = field(init=False)",
    ],
)
def test_a_narrow_signature_is_right(write, text):
    assert wide_signatures(write(a__one=text)) == []
