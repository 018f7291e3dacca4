"""The parameter randomisation test, against the same steps taken by hand."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from scipy import stats

from helpers.small_masker import small_masker
from helpers.small_net import MEAN, NAMES, STD, lively_net
from klieg import Explainer
from klieg.errors import EvaluationError, ImageError, InputError, OptionError
from klieg.evaluation.sanity import randomisation
from klieg.evaluation.sanity.randomisation import RandomisationResult, randomisation_test
from klieg.export import export_classifier
from klieg.export.randomised.reinitialisation import layers, reinitialised, save
from klieg.images.fitting import fit_image

SIZE = 48  # the smallest that HOG takes


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, pictures: list[np.ndarray]) -> Path:
    file = tmp_path_factory.mktemp("lively") / "net.onnx"
    net = lively_net()
    seen = np.stack([fit_image(one, SIZE, "crop")[0] for one in pictures])  # [7, S, S, 3]
    normalised = ((seen / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():  # no class wins on every picture
        net.head.bias -= net(torch.from_numpy(normalised)).mean(0)
    export_classifier(
        net,
        file,
        input_size=SIZE,
        mean=MEAN,
        std=STD,
        class_names=NAMES,
        methods=["all"],
        masker=small_masker(),
        masker_name="a small one",
    )
    return file


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Seven images of several sizes and of several predicted classes."""
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (4, 4 + i % 3, 3)) for i in range(7)]
    return [np.kron(one, np.ones((16, 16, 1))).astype(np.uint8) for one in coarse]


def by_hand(
    path: Path, pictures: list[np.ndarray], method: str, mode: str, folder: Path
) -> np.ndarray:
    """Spearman [L, N], one photo at a time."""
    model = onnx.load(path)
    found = layers(model)
    result = np.empty((len(found), len(pictures)))
    for number in range(len(found)):
        chosen = found[: number + 1] if mode == "cascading" else [found[number]]
        save(reinitialised(model, chosen, seed=4), folder / "hand.onnx")
        with Explainer(path) as before, Explainer(folder / "hand.onnx") as after:
            for i, picture in enumerate(pictures):
                if method == "casm":
                    one, other = (e.explain([picture], method=method) for e in (before, after))
                else:
                    target = int(before.explain([picture], method="gradcam").targets[0])
                    one, other = (
                        e.explain([picture], method=method, target=target) for e in (before, after)
                    )
                a, b = one.maps[0].ravel(), other.maps[0].ravel()
                flat = np.ptp(a) == 0 or np.ptp(b) == 0
                result[number, i] = np.nan if flat else stats.spearmanr(a, b).statistic
    return result


@pytest.mark.parametrize("mode", ["cascading", "independent"])
@pytest.mark.parametrize("method", ["gradcam", "saliency", "casm"])
def test_equals_the_steps_by_hand(
    path: Path, pictures: list[np.ndarray], method: str, mode: str, tmp_path: Path
) -> None:
    result = randomisation_test(
        path,
        pictures,
        method=method,
        mode=mode,
        similarities=["spearman"],
        seed=4,
        batch_size=3,
    )
    want = by_hand(path, pictures, method, mode, tmp_path)
    # Batches of engines round differently: near-equal pixels of a map may change ranks.
    np.testing.assert_allclose(result.per_image[:, 0], want, atol=2e-3)
    assert result.layers == ("head", "features.6", "features.4", "features.0")
    if method == "casm":
        assert result.targets is None
        assert result.per_image[0, 0] == pytest.approx(1)  # a mask does not need the logits
    else:
        assert result.targets is not None
        assert len(set(result.targets.tolist())) > 1


def test_all_similarities_and_groups(path: Path, pictures: list[np.ndarray]) -> None:
    cascading, independent = (
        randomisation_test(path, pictures, method="saliency", mode=mode, groups=2)
        for mode in ("cascading", "independent")
    )
    assert cascading.layers == ("head .. features.6", "features.4 .. features.0")
    assert cascading.metrics == ("spearman", "spearman_absolute", "ssim", "hog")
    assert cascading.per_image.shape == (2, 4, 7)
    # The first group is the same in both, and so are its draws.
    np.testing.assert_array_equal(cascading.per_image[0], independent.per_image[0])
    assert (cascading.per_image[1] != independent.per_image[1]).any()
    again = randomisation_test(path, pictures, method="saliency", groups=2, batch_size=7)
    np.testing.assert_allclose(again.per_image, cascading.per_image, atol=2e-3)  # as above
    more = randomisation_test(path, pictures[:1], method="gradcam", groups=9)
    assert len(more.layers) == 4  # not more groups than layers


def test_means_leave_out_what_is_undefined() -> None:
    nan = float("nan")
    result = RandomisationResult(
        ("a",), ("x", "y", "z"), np.array([[[0.5, nan, 0.1], [nan] * 3, [1, 0, 0.5]]]), None
    )
    np.testing.assert_allclose(result.similarities, [[0.3, nan, 0.5]])
    assert result.undefined.tolist() == [[1, 3, 0]]


def test_temporary_files_are_removed(
    path: Path, pictures: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    randomisation_test(path, pictures, method="gradcam", groups=1, similarities=["spearman"])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ImageError):
        randomisation_test(path, [*pictures, np.zeros((4, 4))], method="gradcam", batch_size=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "both"}, "expected one of cascading, independent"),
        ({"similarities": ["pearson"]}, "expected some of spearman"),
        ({"similarities": []}, "expected some of spearman"),
        ({"groups": 0}, "groups is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"method": "gradcam", "samples": 3}, "no option 'samples'"),
        ({"method": "nonsense"}, "unknown method"),
    ],
)
def test_impossible_options(
    path: Path, pictures: list[np.ndarray], options: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        randomisation_test(path, pictures, **options)  # type: ignore[arg-type]


def test_what_is_missing(
    path: Path, small_explainer: Path, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no images"):
        randomisation_test(path, [])
    with pytest.raises(OptionError, match="--methods saliency"):
        randomisation_test(small_explainer, pictures, method="saliency")
    monkeypatch.setitem(sys.modules, "klieg.export.randomised.reinitialisation", None)
    with pytest.raises(EvaluationError, match=r"pip install 'klieg\[eval\]'"):
        randomisation.randomisation_test(path, pictures)
