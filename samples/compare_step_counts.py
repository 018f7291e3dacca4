"""How much CAMERAS maps change with the number of image sizes.

python samples/compare_step_counts.py EXPLAINER FOLDER --counts 5 6 7 8 9 10

Sizes are evenly spaced between the explainer's first and last one. Prints the mean difference
|a - b|^2 / ((|a|^2 + |b|^2) / 2) of maps for every pair of counts.

Needs only the runtime: pip install 'klieg[cpu]'
"""

import argparse
from pathlib import Path

import numpy as np

from klieg import Explainer
from klieg.evaluation.metrics.map_statistics import map_difference


def main(explainer_file: Path, folder: Path, counts: list[int]) -> None:
    """Print a table, a row and a column per count."""
    photos = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    assert photos, f"{folder} has no .jpg or .png files"
    with Explainer(explainer_file) as explainer:
        first, last = explainer.info.scales[0], explainer.info.scales[-1]
        maps = {}
        for count in counts:
            sizes = np.linspace(first, last, count).round().astype(int).tolist()
            maps[count] = explainer.explain(photos, method="cameras", scales=sizes).maps
    print("sizes" + "".join(f"{count:7}" for count in counts))
    for row in counts:
        differences = [map_difference(maps[row], maps[column]).mean() for column in counts]
        print(f"{row:5}" + "".join(f"{one:7.1%}" for one in differences))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("explainer", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 6, 7, 8, 9, 10])
    given = parser.parse_args()
    main(given.explainer, given.folder, given.counts)
