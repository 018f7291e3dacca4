"""Copy a few photos that ship with scikit-image (public domain) into a folder.

python samples/sample_photos.py FOLDER
"""

import sys
from importlib.resources import files
from pathlib import Path

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def main(folder: Path) -> None:
    """Copy the photos."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOS:
        (folder / name).write_bytes((files("skimage.data") / name).read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
