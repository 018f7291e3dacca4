from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from klieg.errors import OptionError
from klieg.training import read_options
from klieg.training.settings.configuration import (
    PRESETS,
    merged,
    options_from_table,
    table_of,
    with_absolute_paths,
    write_options,
)
from klieg.training.settings.options import (
    CriticOptions,
    DataOptions,
    MaskerOptions,
    ObjectiveOptions,
    OptimiserOptions,
    TrainingOptions,
)

SMALLEST: dict[str, Any] = {"data": {"path": "/photos"}, "objective": {"out_entropy": 1}}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the smallest table with one option, named as in the messages."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return merged(SMALLEST, value)


UNUSUAL = TrainingOptions(
    classifier="somewhere:net",
    mean=(0.1, 0.2, 0.3),
    std=(1, 2, 3),
    data=DataOptions(
        path="/a b/ü",
        layout="csv",
        labels="predicted",
        classes=3,
        per_class=2,
        held_out=0.1,
        unreadable="skip",
        image_size=64,
        smallest_crop=0.5,
        workers=2,
    ),
    masker=MaskerOptions(
        decoder="casm",
        taps=("a", "b.c"),
        raw_first=True,
        channels=9,
        stride=8,
        learn_temperature=True,
        enlargement="bilinear",
        initialisation="fan_in",
        gumbel="hard",
        temperature=0.3,
    ),
    objective=ObjectiveOptions(
        out_entropy=0.1,
        out_classification=0.2,
        in_classification=0.3,
        size_out=4,
        size_in=5,
        variation=1e-7,
        variation_variant="paper",
        area=0.2,
        area_weight=3,
    ),
    critics=CriticOptions(
        regime="fixed",
        taps="trained",
        historic=0.25,
        pool_size=4,
        snapshot_every=5,
        use_pool=False,
        image_size=32,
        mode="eval",
        learning_rate=0.1,
        momentum=0.5,
        weight_decay=0,
    ),
    infill="blur",
    optimiser=OptimiserOptions(
        epochs=2,
        batch_size=3,
        share_per_epoch=0.2,
        learning_rate=1 / 3,
        weight_decay=0.1,
        gradient_norm=2.5,
        schedule="cosine",
        decay_every=7,
        averaging=0.99,
        precision="bf16-mixed",
    ),
    seed=5,
    checkpoint_every=11,
    look_every=2,
    threads=1,
)


@pytest.mark.parametrize("options", [UNUSUAL, options_from_table(SMALLEST)])
def test_round_trip(options: TrainingOptions, tmp_path: Path) -> None:
    path = tmp_path / "run" / "config.toml"
    write_options(options, path)
    assert read_options(path) == options
    assert table_of(read_options(path)) == table_of(options)
    assert os.listdir(path.parent) == ["config.toml"]


def test_unusual_options_are_all_unusual() -> None:
    usual = table_of(options_from_table(SMALLEST))
    for name, value in table_of(UNUSUAL).items():
        if isinstance(value, dict):
            assert not [key for key in value if usual[name].get(key) == value[key]]
        else:
            assert usual.get(name) != value, name


def test_relative_paths_are_taken_from_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "run.toml").write_text(
        'infill = "lama.onnx"\n[data]\npath = "../photos"\n[objective]\nout_entropy = 1\n'
    )
    monkeypatch.chdir(tmp_path)
    options = read_options("configs/run.toml")
    assert options.data.path == str(tmp_path / "photos")
    assert options.infill == str(tmp_path / "configs" / "lama.onnx")
    # What a run writes into a folder of its own means the same there.
    write_options(options, tmp_path / "runs" / "1" / "config.toml")
    monkeypatch.chdir("/")
    assert read_options(tmp_path / "runs" / "1" / "config.toml") == options


def test_relative_paths_of_python_are_taken_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = options_from_table(changed("data.path", "photos"))
    options = with_absolute_paths(given, Path())  # as a run does
    assert options.data.path == str(tmp_path / "photos")
    assert options.infill == "mean"


CASM = {
    "casm-f": (2.5, "fixed", 0, None),
    "casm-l": (14, "agnostic", 0, None),
    "casm-fl": (7.5, "agnostic", 0.5, 10_000_000),
    "casm-l100": (10, "agnostic", 0.5, 100),
    "casm-l1000": (10, "agnostic", 0.5, 1000),
}


@pytest.mark.parametrize("name", CASM)
def test_casm_as_published(name: str) -> None:
    size, regime, historic, every = CASM[name]
    options = options_from_table({"preset": name, "data": {"path": "/x"}})
    assert options.objective == ObjectiveOptions(out_entropy=1, size_out=size)
    critics = options.critics
    assert (critics.regime, critics.historic, critics.pool_size) == (regime, historic, 30)
    assert critics.use_pool
    assert every in (None, critics.snapshot_every)
    assert regime == "fixed" or critics.taps == "trained"
    assert (critics.image_size, critics.mode) == (None, "train")
    assert (critics.learning_rate, critics.momentum, critics.weight_decay) == (1e-3, 0.9, 1e-4)
    masker = options.masker
    assert (masker.decoder, masker.raw_first, masker.channels, masker.stride) == (
        "casm",
        True,
        64,
        4,
    )
    assert (masker.enlargement, masker.initialisation, masker.gumbel) == (
        "nearest",
        "fan_out",
        "none",
    )
    assert options.optimiser == OptimiserOptions(
        epochs=60,
        batch_size=128,
        share_per_epoch=0.2,
        learning_rate=1e-3,
        weight_decay=1e-4,
        gradient_norm=10,
        schedule="step",
        decay_every=20,
        averaging=0,
    )
    assert options.infill == "mean"


@pytest.mark.parametrize(("name", "size"), [("simplified-fix", 10), ("simplified-ca", 15)])
def test_the_simplified_recipe_as_released(name: str, size: float) -> None:
    options = options_from_table({"preset": name, "data": {"path": "/x"}})
    assert options.objective == ObjectiveOptions(
        out_entropy=1,
        in_classification=1,
        size_out=size,
        size_in=1,
        variation=0.001,
        variation_variant="released",
    )
    if name == "simplified-fix":
        assert options.critics.regime == "fixed"
    else:
        assert options.critics == CriticOptions(
            regime="agnostic",
            taps="trained",
            historic=0.5,
            pool_size=30,
            snapshot_every=100,
            use_pool=False,
            learning_rate=1e-3,
            momentum=0.9,
            weight_decay=1e-4,
        )
    assert options.masker == MaskerOptions(decoder="simplified", raw_first=False)
    assert options.optimiser == OptimiserOptions(
        epochs=60, batch_size=72, share_per_epoch=0.2, decay_every=20
    )


def test_all_presets_are_looked_at() -> None:
    assert set(PRESETS) == {*CASM, "simplified-fix", "simplified-ca"}


def test_a_file_changes_its_preset(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        'preset = "simplified-ca"\nseed = 7\n[data]\npath = "x"\n'
        "[objective]\nsize_out = 3\n[critics]\nuse_pool = true\n"
    )
    options = read_options(path)
    assert (options.seed, options.objective.size_out, options.objective.size_in) == (7, 3, 1)
    assert options.critics.use_pool
    assert options.critics.historic == 0.5
    assert not PRESETS["simplified-ca"]["critics"]["use_pool"]


@pytest.mark.parametrize("preset", ["simplified", ["casm-f"], 3])
def test_unknown_presets(preset: Any) -> None:
    with pytest.raises(OptionError, match=r"unknown preset .*expected one of casm-f, casm-l"):
        options_from_table({**SMALLEST, "preset": preset})


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("optimiser.batchsize", "batch_size"),
        ("masker.tap", "taps"),
        ("objectives", "objective"),
        ("critics.use_the_pool", "use_pool"),
    ],
)
def test_unknown_options(path: str, near: str) -> None:
    with pytest.raises(OptionError, match=f"no option '{path}': did you mean .*{near}"):
        options_from_table(changed(path, 1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimiser.epochs", 0),
        ("optimiser.epochs", 1.5),
        ("optimiser.batch_size", 1),
        ("optimiser.learning_rate", -1.0),
        ("optimiser.learning_rate", float("nan")),
        ("optimiser.share_per_epoch", 0),
        ("optimiser.averaging", 1),
        ("optimiser.schedule", "linear"),
        ("optimiser.precision", "16"),
        ("objective.size_out", -1),
        ("objective.area", 1.1),
        ("objective.variation_variant", "papers"),
        ("critics.regime", "any"),
        ("critics.historic", 1.01),
        ("critics.pool_size", 0),
        ("masker.temperature", 0),
        ("masker.stride", 0),
        ("masker.taps", [1]),
        ("data.held_out", 1),
        ("data.image_size", 7),
        ("data.per_class", 0),
        ("data.workers", -1),
        ("data.path", 3),
        ("seed", -1),
        ("seed", 2**31),
        ("mean", [0.5]),
        ("std", [0.2, 0, 0.2]),
        ("std", [0.2, 0.2, 0.2, 0.2]),
        ("threads", 0),
    ],
)
def test_impossible_values(path: str, value: Any) -> None:
    with pytest.raises(OptionError, match=path.replace(".", r"\.")):
        options_from_table(changed(path, value))


def test_no_objective() -> None:
    for objective in ({}, {"size_out": 1, "size_in": 1}, {"variation": 1, "area_weight": 1}):
        with pytest.raises(OptionError, match=r"objective.*no objective"):
            options_from_table({**SMALLEST, "objective": objective})


@pytest.mark.parametrize("name", ["data", "objective"])
def test_missing_tables(name: str) -> None:
    with pytest.raises(OptionError, match=f"'{name}' is missing"):
        options_from_table({key: value for key, value in SMALLEST.items() if key != name})


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[data\n")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xff")
    (tmp_path / "wrong.toml").write_text("data = 3\n[objective]\nout_entropy = 1\n")
    for name in ("bad", "binary", "missing"):
        with pytest.raises(OptionError, match=rf"cannot read .*{name}\.toml"):
            read_options(tmp_path / f"{name}.toml")
    with pytest.raises(OptionError, match=r"wrong\.toml: data"):
        read_options(tmp_path / "wrong.toml")
