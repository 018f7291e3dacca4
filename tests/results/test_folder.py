"""Results as files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from klieg import Explainer
from klieg.errors import OptionError
from klieg.results import folder as folder_module
from klieg.results.folder import ResultFolder
from klieg.results.formats import FORMATS, Writer
from klieg.results.overlay import overlay


@pytest.mark.parametrize(("method", "brightened"), [("saliency", True), ("gradcam", False)])
def test_pictures_of_single_pixels_are_brightened_but_not_the_maps(
    method: str, brightened: bool, small_explainer_all: Path, tmp_path: Path
) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    with Explainer(small_explainer_all) as explainer:
        explanation = explainer.explain([photo], method=method, target=1)
    (path,) = explanation.save(tmp_path)
    saliency = explanation.on_image(0)
    np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), saliency)
    drawn = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)[:320].astype(int)
    plain = overlay(photo, saliency, title="")[:320].astype(int)
    assert (np.abs(drawn - plain).max() > 20) == brightened
    if brightened:
        shown = overlay(
            photo, (saliency / np.quantile(saliency[saliency > 0], 0.99)).clip(0, 1), title=""
        )
        assert np.abs(drawn - shown[:320]).max() <= 1


def test_no_file_replaces_another(small_explainer: Path, tmp_path: Path) -> None:
    """Photos whose names look like the files of others."""
    names = ("a.png", "a-views.png", "a-gradcam.png", "a-gradcam-views.png", "a.bmp")
    for number, name in enumerate(names):
        photo = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / name), photo)
    paths = [tmp_path / name for name in names]
    with Explainer(small_explainer) as explainer:
        explanations = [explainer.explain(paths, method=m) for m in ("gradcam", "cam")]
    for formats in (("png", "npy"), ("png", "npy", "views")):
        single, several = (
            ResultFolder(tmp_path / f"{kind}-{len(formats)}", formats) for kind in "ab"
        )
        files: list[Path | None] = []
        for i in range(len(names)):
            results = [explanation.result(i) for explanation in explanations]
            (alone,) = single.save(results[:1])
            assert alone.comparison is None
            files += alone.files.values()
            together = several.save(results)
            files.append(together[0].comparison)
            for saved in together:
                assert saved.comparison == together[0].comparison
                files += saved.files.values()
        assert len(set(files)) == len(files) == len(names) * (3 * len(formats) + 1)
        assert all(path is not None and path.exists() for path in files)


def test_names_without_views_stay(small_explainer: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a-views.png"):
        cv2.imwrite(str(tmp_path / name), np.eye(40, dtype=np.uint8) * 255)
    with Explainer(small_explainer) as explainer:
        explanation = explainer.explain([tmp_path / "a.png", tmp_path / "a-views.png"])
    names = [path.name for path in explanation.save(tmp_path / "out")]
    assert names == ["a.png", "a-views.png"]
    names = [path.name for path in explanation.save(tmp_path / "out", views="mean")]
    assert names == ["a.png", "a-views-2.png"]


def test_formats_that_would_overwrite_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Writer("again", ".png", lambda result, path: None)
    monkeypatch.setattr(folder_module, "find_format", {**FORMATS, "again": again}.__getitem__)
    with pytest.raises(OptionError, match=r"have the same ending, \.png, \.png"):
        ResultFolder(tmp_path / "out", ["png", "again"])
    for formats in ([], "png"):
        with pytest.raises(OptionError, match="expected a list of names"):
            ResultFolder(tmp_path / "out", formats)
    assert not (tmp_path / "out").exists()


def test_no_file_takes_the_name_of_the_records(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path, ["png"])
    assert folder._unused("results.jpg", [".jsonl"]) == "results-2"
