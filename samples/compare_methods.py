"""Explain one photo with every method that an explainer file serves, side by side.

klieg export efficientnet-lite0 -o all.onnx --methods all
python samples/compare_methods.py all.onnx PHOTO PICTURE.png

Needs only the runtime: pip install 'klieg[cpu]'
"""

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from klieg import Explainer
from klieg.errors import OptionError
from klieg.model_file.methods import METHODS

COLUMNS = 5


def main(explainer_file: str, photo: str, picture: str) -> None:
    """Write a picture with one tile per method."""
    tiles = []
    with Explainer(explainer_file) as explainer, tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            options = {"masks": 300} if method == "rise" else {}
            try:
                explanation = explainer.explain([photo], method=method, **options)
            except OptionError as error:
                print(f"{method}: {error}")
                continue
            assert not explanation.degenerate.any(), f"{method} gives a flat map"
            (tile,) = explanation.save(Path(folder) / method)
            tiles.append(cv2.imread(str(tile)))

    size = (360, round(360 * tiles[0].shape[0] / tiles[0].shape[1]))
    tiles = [cv2.resize(tile, size, interpolation=cv2.INTER_AREA) for tile in tiles]
    tiles += [np.full_like(tiles[0], 250)] * (-len(tiles) % COLUMNS)
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    cv2.imwrite(picture, np.vstack(rows))
    print(f"{len(METHODS)} methods: see {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:])
