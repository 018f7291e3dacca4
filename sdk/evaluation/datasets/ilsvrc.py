"""ImageNet's localisation task (ILSVRC): the validation photos with their boxes."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from klieg.evaluation.datasets.listing import photos_in
from klieg.evaluation.datasets.voc_xml import VocXmlDataset

IMAGES = "Data/CLS-LOC/val"
ANNOTATIONS = "Annotations/CLS-LOC/val"


class IlsvrcDataset(VocXmlDataset):
    """`Data/CLS-LOC/val/ID.JPEG` and `Annotations/CLS-LOC/val/ID.xml`.

    A category is a WordNet number, as "n02105855". The first pixel of the boxes is 0, 0, unlike
    in VOC, and the last one belongs to the box (Russakovsky et al. 2015, development kit): 0, 0,
    4, 4 becomes 0, 0, 5, 5 here.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Read the annotations of the validation set.

        Args:
            root: The folder ILSVRC, with `Data` and `Annotations` in it.

        Raises:
            InputError: there is no such folder, or no photo is usable.
        """
        folder = Path(root)
        images = photos_in(folder, IMAGES)
        by_stem = {PurePosixPath(name).stem: name for name in images}
        files = {
            by_stem.get(path.stem, f"{IMAGES}/{path.stem}.JPEG"): path
            for path in sorted((folder / ANNOTATIONS).glob("*.xml"))
        }
        super().__init__(folder, images=images, files=files, origin=0)
