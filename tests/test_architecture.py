"""Imports go downwards only: between packages in one order, between files without a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"sdk": "klieg", "export": "klieg.export", "kernels": "klieg.kernels"}

ORDER = (
    "errors",
    "extensions",
    "renamed",
    "storage",
    "kernels",
    "model_file",
    "images",
    "backends",
    "methods",
    "maps",
    "results",
    "explanation",
    "explainer",
    "class_models",
    "export",
    "evaluation",
    "training",
    "cli",
)
"""Packages and files directly below klieg, from the ground up: each may import those before it."""


def module_files() -> dict[str, Path]:
    """Return every module of klieg with its file."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def imported(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """Yield the modules of klieg that a file imports anywhere, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                if inner in known or node.module in known:
                    yield inner if inner in known else node.module


def import_graph() -> dict[str, set[str]]:
    """Return which modules each module imports."""
    files = module_files()
    known = set(files)
    return {
        name: set(imported(ast.parse(path.read_text()), known)) - {name}
        for name, path in files.items()
    }


def room(module: str) -> str:
    """Return the package or file directly below klieg."""
    return module.split(".")[1]


def climbing(graph: dict[str, set[str]]) -> list[str]:
    """Return the imports that go up, klieg's own `__init__` left out: it names what is public."""
    return sorted(
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others - {"klieg"}
        if module != "klieg" and ORDER.index(room(module)) < ORDER.index(room(other))
    )


def test_packages_import_downwards() -> None:
    graph = import_graph()
    assert {room(module) for module in graph if module != "klieg"} == set(ORDER)
    assert climbing(graph) == []


def test_files_have_no_circle() -> None:
    TopologicalSorter(import_graph()).prepare()


def test_these_tests_can_fail() -> None:
    graph = import_graph()
    graph["klieg.images.arrays"] = {"klieg.methods.model"}
    assert climbing(graph) == ["klieg.images.arrays imports klieg.methods.model"]
    graph["klieg.errors"] = {"klieg.explainer"}
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()
