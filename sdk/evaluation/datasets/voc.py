"""PASCAL VOC, the 2007 edition and others of its layout."""

from __future__ import annotations

import os
from pathlib import Path

from klieg.errors import InputError
from klieg.evaluation.datasets.tables import read_lines
from klieg.evaluation.datasets.voc_xml import VocXmlDataset


class VocDataset(VocXmlDataset):
    """`Annotations/ID.xml`, `JPEGImages/ID.jpg`, and `ImageSets/Main/SPLIT.txt` with one ID a line.

    The first pixel of VOC's boxes is 1, 1 and the last one belongs to the box (Everingham and Winn
    2007, development kit): 1, 1, 5, 5 becomes 0, 0, 5, 5 here.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "test") -> None:
        """Read the annotations of a split.

        Args:
            root: The folder of one edition, as VOCdevkit/VOC2007.
            split: "test", "trainval", "train" or "val".

        Raises:
            InputError: there is no such split, or none of its photos is usable.
        """
        folder = Path(root)
        table = folder / "ImageSets" / "Main" / f"{split}.txt"
        files = {}
        for line, text in enumerate(read_lines(table), start=1):
            if len(text.split()) != 1:
                raise InputError(
                    f"{table}, line {line}: got {text!r}, expected one photo: name a split of all "
                    'classes, as "test", not "cat_test"'
                )
            name = text.strip()
            files[f"JPEGImages/{name}.jpg"] = folder / "Annotations" / f"{name}.xml"
        images = {name for name in files if (folder / name).is_file()}
        super().__init__(folder, images=images, files=files, origin=1)
