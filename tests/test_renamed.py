"""Old names work for one release, and say where things are now."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import klieg
from klieg.renamed import RENAMED

PAGE = (Path(__file__).parents[1] / "docs" / "api-changes.md").read_text()


@pytest.mark.parametrize("old", RENAMED)
def test_old_modules_are_the_new_ones_with_a_warning(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{re.escape(old)} is now {RENAMED[old]}"):
        module = importlib.import_module(old)
    try:
        assert module is importlib.import_module(RENAMED[old])
        assert module.__spec__ is not None
        assert module.__spec__.name == RENAMED[old]
    finally:
        del sys.modules[old]
    assert f"`{old}`" in PAGE
    assert f"`{RENAMED[old]}" in PAGE


@pytest.mark.filterwarnings("ignore:options of an engine:DeprecationWarning")
def test_options_of_an_engine_given_to_the_explainer_warn(small_explainer: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"backend=klieg\.OnnxRuntime\(threads=\.\.\.\)"):
        explainer = klieg.Explainer(small_explainer, threads=1)
    with explainer, pytest.warns(DeprecationWarning, match=r"is now \.model"):
        assert explainer.passes is explainer.model
    with pytest.warns(DeprecationWarning, match="options of an engine"):
        klieg.Explainer(small_explainer, replay=False, engines=None).close()
    with pytest.raises(klieg.KliegError, match="threads is 0"):
        klieg.Explainer(small_explainer, threads=0)
    with pytest.raises(klieg.KliegError, match="beside an engine"):
        klieg.Explainer(small_explainer, backend=klieg.OnnxRuntime(), threads=1)


def test_the_warning_names_the_line_that_has_to_change() -> None:
    code = "import klieg\nfrom klieg.methods.table import METHODS"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr.startswith("<string>:2: DeprecationWarning"), done.stderr
