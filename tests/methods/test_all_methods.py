"""What holds for every method: the table, options, and that a map follows image and class."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from helpers.small_net import lively_net, small_net
from helpers.torch_backend import TorchBackend
from klieg import Explainer
from klieg.cli import main
from klieg.errors import OptionError
from klieg.images.batch import Batch
from klieg.model_file.explainer_file import ALWAYS
from klieg.model_file.methods import METHODS, checked_options

AT_THE_END = ("cam", "excitation_backprop", "contrastive_excitation")
EARLY = 3  # in front of this layer the gradient varies, which NormGrad needs to tell classes apart


def maps(method: str, question: Batch) -> np.ndarray:
    """Return raw maps [B, S, S] scaled to 0..1, relu left out: it may leave nothing to compare."""
    backend = TorchBackend(lively_net(), layer=None if method in AT_THE_END else EARLY)
    options = checked_options(method, {"masks": 300} if method == "rise" else {})
    sizes = (32, 48) if METHODS[method].multi_scale else (32,)
    raw = METHODS[method].function(backend.model(), question, sizes, **options).raw
    low, high = raw.min(axis=(1, 2), keepdims=True), raw.max(axis=(1, 2), keepdims=True)
    assert (high > low).all()
    return np.asarray((raw - low) / (high - low))


@pytest.mark.parametrize("method", METHODS)
def test_map_changes_with_image_and_class(method: str) -> None:
    images = np.random.default_rng(1).uniform(0, 255, (2, 3, 32, 32)).astype(np.float32)
    first, second = maps(method, Batch.single(images, np.array([0, 0])))
    (other,) = maps(method, Batch.single(images[:1], np.array([3])))
    assert np.abs(first - second).max() > 0.1
    if METHODS[method].class_free:
        np.testing.assert_allclose(first, other, atol=1e-4)
    else:
        assert np.abs(first - other).max() > 0.1


@pytest.mark.parametrize("name", METHODS)
def test_table_agrees_with_the_functions(name: str) -> None:
    method = METHODS[name]
    parameters = inspect.signature(method.function).parameters.values()
    keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert keywords == set(method.options)
    assert inspect.getdoc(method.function)
    assert method.outputs[0] == "logits"
    for option, entry in method.options.items():
        assert checked_options(name, {})[option] == entry.default
    shown = " ".join(CliRunner().invoke(main, ["explain", "--help"]).output.split())
    assert name in shown
    assert all(f"{option}={entry.default}" in shown for option, entry in method.options.items())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("gradcam", {"masks": 5}, "no option 'masks': it takes none"),
        ("rise", {"steps": 5}, "no option 'steps': it takes masks, cells, visible, seed"),
        ("rise", {"masks": 0}, r"masks is 0.*1\.\.1e\+07"),
        ("rise", {"masks": 2.5}, "whole number"),
        ("rise", {"masks": True}, "whole number"),
        ("rise", {"visible": float("nan")}, "visible is nan"),
        ("rise", {"visible": "0.5"}, "visible is '0.5'"),
        ("smoothgrad", {"noise": -1}, "noise is -1"),
        ("smoothgrad", {"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_options(small_explainer: Path, method: str, options: Any, message: str) -> None:
    photo = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    with Explainer(small_explainer) as explainer, pytest.raises(OptionError, match=message):
        explainer.explain(photo, method=method, **options)


def test_file_without_an_output_says_how_to_get_it(small_explainer: Path) -> None:
    photo = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    with Explainer(small_explainer) as explainer:
        for name, method in METHODS.items():
            if set(method.outputs) <= ALWAYS:
                continue
            output = method.outputs[1]
            serves = "saliency" if output == "image_gradient" else name
            option = "--masker NAME" if name == "casm" else f"--methods {serves}"
            with pytest.raises(OptionError, match=f"'{output}'.*`{option}`"):
                explainer.explain(photo, method=name)


@pytest.mark.parametrize("name", METHODS)
def test_file_equals_torch(small_explainer_all: Path, name: str) -> None:
    """The exported file behind ONNX Runtime gives the maps that the same method gets from torch."""
    photos = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    # The search of "extremal" amplifies rounding step by step: see sdk/DESIGN.md.
    given = {"rise": {"masks": 20}, "extremal": {"steps": 20}}.get(name, {})
    target: Any = None if METHODS[name].class_free else [[1, 2], 3, 0]
    with Explainer(small_explainer_all) as explainer:
        got = explainer.explain(photos, method=name, target=target, **given)
    images = np.ascontiguousarray(photos.transpose(0, 3, 1, 2), dtype=np.float32)
    question = Batch(images, np.array([1, 2, 3, 0]), np.array([0, 0, 1, 2]))
    if METHODS[name].class_free:
        question = Batch.single(images, np.full(3, -1))
    options = checked_options(name, given)
    model = TorchBackend(small_net()).model()
    expected = METHODS[name].function(model, question, got.scales, **options).raw
    # Relative to the largest value; float32 in both, over at most seven layers.
    np.testing.assert_allclose(got.raw, expected, atol=1e-4 * np.abs(expected).max())


def test_command_line(small_explainer: Path, tmp_path: Path) -> None:
    import cv2

    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), 90, np.uint8))

    def klieg(*arguments: object) -> Any:
        return CliRunner().invoke(main, ["explain", *map(str, arguments)])

    out = tmp_path / "out"
    done = klieg(
        small_explainer,
        tmp_path,
        "-o",
        out,
        "--method",
        "rise",
        "--option",
        "masks=30",
        "--option",
        "visible=0.4",
        "--target",
        "dog",
        "--target",
        1,
    )
    assert done.exit_code == 0, done.output
    assert "explained 2 of 2 photos" in done.output
    assert len((out / "results.jsonl").read_text().splitlines()) == 4
    for option, message in (("masks", "masks=500"), ("masks=x", "masks=500"), ("steps=3", "steps")):
        failed = klieg(small_explainer, tmp_path, "-o", out, "--method", "rise", "--option", option)
        assert failed.exit_code in (1, 2)
        assert message in failed.output
