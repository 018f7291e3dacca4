"""The names that users may rely on, their documentation, and the error tree."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import klieg
import klieg.errors
import klieg.evaluation
import klieg.evaluation.sanity
import klieg.export
import klieg.export.autodiff
import klieg.training
import klieg.training.sanity
from klieg.errors import KliegError

ROOT = Path(__file__).parents[1]


def test_facade() -> None:
    assert klieg.__all__ == [
        "ClassModel",
        "Explainer",
        "Explanation",
        "KliegError",
        "OnnxRuntime",
        "TensorRT",
        "class_model",
        "open_device",
    ]
    assert klieg.export.__all__ == ["ExportReport", "export_classifier"]
    assert klieg.export.autodiff.__all__ == ["add_gradient"]
    assert klieg.training.__all__ == [
        "TrainedMasker",
        "TrainingOptions",
        "load_masker",
        "options_from_table",
        "read_options",
        "run_sweep",
        "train",
    ]
    assert klieg.evaluation.__all__ == [
        "ClassFinder",
        "Dataset",
        "EvaluationOptions",
        "PixelPrecision",
        "Score",
        "Summary",
        "evaluate",
        "localisation_error",
        "open_dataset",
        "saliency_metric",
    ]
    assert klieg.evaluation.sanity.__all__ == [
        "AttackResult",
        "RandomisationResult",
        "guided_attack",
        "norm_reduction",
        "randomisation_test",
        "restoration_sanity",
    ]
    assert klieg.training.sanity.__all__ == [
        "DataRandomisation",
        "RoarResult",
        "data_randomisation",
        "roar",
        "shuffled_labels",
    ]
    for module in (
        klieg,
        klieg.export,
        klieg.export.autodiff,
        klieg.training,
        klieg.training.sanity,
        klieg.evaluation,
        klieg.evaluation.sanity,
    ):
        for name in module.__all__:
            assert inspect.getdoc(getattr(module, name)), f"{module.__name__}.{name}"


def test_options_are_keyword_only() -> None:
    for function, positional in (
        (klieg.Explainer.__init__, ["self", "path"]),
        (klieg.Explainer.explain, ["self", "images"]),
        (klieg.Explainer.explain_iter, ["self", "images"]),
        (klieg.class_model, ["explainer", "target"]),
        (klieg.export.export_classifier, ["model", "output"]),
        (klieg.export.autodiff.add_gradient, ["model"]),
        (klieg.training.train, ["options", "folder"]),
        (klieg.training.run_sweep, ["options", "sweep", "folder"]),
        (klieg.evaluation.evaluate, ["explainer", "dataset", "folder"]),
    ):
        parameters = inspect.signature(function).parameters.values()
        got = [p.name for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
        assert got == positional


def test_one_error_tree() -> None:
    errors = [e for _, e in inspect.getmembers(klieg.errors, inspect.isclass)]
    assert all(issubclass(error, KliegError) for error in errors)
    drawn = klieg.errors.__doc__ or ""
    assert all(error.__name__ in drawn for error in errors), "draw new errors in the tree"


def test_doctests() -> None:
    for path in sorted((ROOT / "sdk").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "sdk").with_suffix("").parts)
        module = importlib.import_module("klieg" if name == "__init__" else f"klieg.{name}")
        assert doctest.testmod(module).failed == 0
