"""Hands mutated models to the importer, in a process of its own because onnx might end it.

One line per error that is not klieg's own: `python -m helpers.fuzz_worker bytes export 0 100`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from helpers.mutations import classifier, mutated_bytes, mutated_graph
from klieg.errors import KliegError
from klieg.export import export_classifier
from klieg.export.autodiff import add_gradient


def feed(kind: str, entry: str, seed: int, folder: Path) -> None:
    """Import one mutated model; a KliegError is the right answer to a broken one."""
    model = classifier()
    source = folder / "model.onnx"
    if kind == "bytes":
        source.write_bytes(mutated_bytes(model.SerializeToString(), seed))
    else:
        model = mutated_graph(model, seed)
    try:
        if entry == "add_gradient":
            add_gradient(model, score="logits", wrt="image")
        else:
            export_classifier(
                source if kind == "bytes" else model,
                folder / "explainer.onnx",
                input_size=16,
                mean=[0.5] * 3,
                std=[0.5] * 3,
            )
    except KliegError:
        pass


if __name__ == "__main__":
    kind, entry, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, last):
            print("seed", seed, file=sys.stderr, flush=True)  # the last line of a dead process
            try:
                feed(kind, entry, seed, Path(folder))
            except Exception as error:  # noqa: BLE001 - that is what it looks for
                print(f"{kind} {seed}: {type(error).__name__}: {error}", flush=True)
