"""The image that a classifier takes for the best example of a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import klieg
from helpers.small_net import MEAN, NAMES, STD, small_net
from klieg.errors import OptionError, TargetError
from klieg.export import export_classifier


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> klieg.Explainer:
    path = tmp_path_factory.mktemp("image") / "net.onnx"
    export_classifier(
        small_net(),
        path,
        input_size=32,
        mean=MEAN,
        std=STD,
        class_names=NAMES,
        methods=["saliency"],
    )
    return klieg.Explainer(path)


@pytest.mark.parametrize("target", ["ant", 3])
def test_the_logit_rises(explainer: klieg.Explainer, target: str | int) -> None:
    model = klieg.class_model(explainer, target, steps=60)
    assert model.image.shape == (32, 32, 3)
    assert 0 <= model.image.min() < model.image.max() <= 255
    assert len(model.scores) == 61
    assert np.isfinite(model.scores).all()
    logits = explainer.explain([model.image], method="rise", masks=1, target=target).logits[0]
    np.testing.assert_allclose(model.scores[-1], logits[model.target], rtol=1e-4)
    # Far above the start, and above what photos of noise reach.
    noise = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    others = explainer.explain(noise, method="rise", masks=1).logits[:, model.target]
    assert model.scores[-1] > others.max() + others.std()
    assert model.scores[-1] > model.scores[0] + others.std()


def test_weight_of_the_distance(explainer: klieg.Explainer) -> None:
    """The more it weighs, the closer the image stays to the mean colour."""
    mean = 255 * np.array(MEAN)
    distances = [
        np.square(klieg.class_model(explainer, 1, steps=60, l2=l2).image - mean).mean()
        for l2 in (0, 0.3, 30)
    ]
    assert distances[0] > distances[1] > distances[2]


def test_the_seed_decides(explainer: klieg.Explainer) -> None:
    images = [klieg.class_model(explainer, 1, steps=3, seed=s).image for s in (1, 1, 2)]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


@pytest.mark.parametrize("options", [{"steps": 0}, {"learning_rate": 0}, {"l2": -1}])
def test_impossible_options(explainer: klieg.Explainer, options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="expected at least 1, more than 0, and 0 or more"):
        klieg.class_model(explainer, 1, **options)  # type: ignore[arg-type]


def test_what_is_missing(explainer: klieg.Explainer, small_explainer: Path) -> None:
    with pytest.raises(TargetError, match="expected the number or name"):
        klieg.class_model(explainer, None)
    with (
        klieg.Explainer(small_explainer) as without,
        pytest.raises(OptionError, match="--methods saliency"),
    ):
        klieg.class_model(without, 1)
