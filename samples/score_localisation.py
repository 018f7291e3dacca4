"""Score where the maps of a method lie, on a folder of photos with boxes or masks.

python samples/score_localisation.py EXPLAINER FOLDER --method cam

FOLDER has images/ and at least one of
  boxes.csv    file,name,xmin,ymin,xmax,ymax in pixels of the photo   -> localisation error
  masks/ with instances.csv    file,...; masks/STEM.png is 0 off all objects   -> PxAP

Photos are stretched to the model's input, the predicted class is explained. Beside the method
stands what needs no model: a square over the centre half of the area.

Needs only the runtime: pip install 'klieg[cpu]'
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from klieg import Explainer, Explanation
from klieg.evaluation.metrics.localisation import localisation_error
from klieg.evaluation.metrics.pixel_precision import PixelPrecision
from klieg.regions import bounding_boxes


def main(explainer_file: Path, data: Path, method: str, rule: str) -> None:
    """Print the scores that the folder has labels for."""
    boxes, instances = data / "boxes.csv", data / "instances.csv"
    assert boxes.exists() or instances.exists(), f"{data} has neither boxes.csv nor instances.csv"
    with Explainer(explainer_file) as explainer:
        if boxes.exists():
            score_boxes(explainer, data, method, rule)
        if instances.exists():
            score_masks(explainer, data, method)


def score_boxes(explainer: Explainer, data: Path, method: str, rule: str) -> None:
    """Print the localisation error."""
    rows = read_rows(data / "boxes.csv")
    errors, centre_errors = [], []
    for explanation in explained(explainer, data, rows, method):
        objects = []
        for name, photo in zip(explanation.names, explanation.photos, strict=True):
            height, width = photo.shape[:2]
            corners = [
                [float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")]
                for row in rows[Path(name).name]
            ]
            size = explanation.maps.shape[1]
            objects.append(np.array(corners) * size / [width, height, width, height])
        centre = np.repeat(bounding_boxes(centre_map(size) > 0), len(objects), axis=0)
        errors.extend(localisation_error(explanation.boxes(rule=rule), objects))
        centre_errors.extend(localisation_error(centre, objects))
    print(f"localisation error of {len(errors)} photos, rule {rule}")
    print(f"  {method:10} {np.mean(errors):6.1%}")
    print(f"  {'centre':10} {np.mean(centre_errors):6.1%}")


def score_masks(explainer: Explainer, data: Path, method: str) -> None:
    """Print PxAP; objects are all instances together."""
    rows = read_rows(data / "instances.csv")
    precision, centre_precision = PixelPrecision(), PixelPrecision()
    for explanation in explained(explainer, data, rows, method):
        size = explanation.maps.shape[1]
        objects = np.stack(
            [
                read_mask(data / "masks" / f"{Path(name).stem}.png", size)
                for name in explanation.names
            ]
        )  # [B, S, S]
        precision.add(explanation.maps, objects)
        centre_precision.add(np.repeat(centre_map(size), len(objects), axis=0), objects)
    print(f"PxAP of {len(rows)} photos")
    print(f"  {method:10} {precision.score:5.1f}")
    print(f"  {'centre':10} {centre_precision.score:5.1f}")


def explained(
    explainer: Explainer, data: Path, rows: dict[str, list[dict[str, str]]], method: str
) -> Iterator[Explanation]:
    """Explain all labelled photos, batch by batch."""
    files = [data / "images" / name for name in rows]
    return explainer.explain_iter(files, method=method, fit="stretch")


def read_rows(path: Path) -> dict[str, list[dict[str, str]]]:
    """Read a table, its rows grouped by photo."""
    grouped: dict[str, list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            grouped.setdefault(row["file"], []).append(row)
    return grouped


def read_mask(path: Path, size: int) -> np.ndarray:
    """Return [size, size], True on any object."""
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert mask is not None, f"{path} is missing or no picture"
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST_EXACT) > 0


def centre_map(size: int) -> np.ndarray:
    """Return [1, size, size] float32: 1 on a centred square of half the area."""
    margin = round(size * (1 - 0.5**0.5) / 2)
    square = np.zeros((1, size, size), dtype=np.float32)
    square[:, margin : size - margin, margin : size - margin] = 1
    return square


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("explainer", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", default="cameras")
    parser.add_argument("--rule", choices=["mean", "quantile"], default="mean")
    given = parser.parse_args()
    main(given.explainer, given.folder, given.method, given.rule)
