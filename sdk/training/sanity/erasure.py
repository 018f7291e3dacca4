"""Photos without the pixels that a map ranks highest, for ROAR."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from klieg.explainer import Explainer
from klieg.model_file.methods import find_method
from klieg.storage.atomic import atomic_path
from klieg.training.data.photos import Photo

RANDOM = "random"
"""The name of random maps, beside those of methods."""

Maps = NDArray[np.float32]  # [N, S, S] in 0..1


def maps_of(
    explainer: Explainer, photos: Sequence[Photo], method: str, *, path: Path, seed: int
) -> Maps:
    """Return the maps of all photos for their labels, computed once and kept in a file.

    Args:
        explainer: Serves the method.
        photos: N photos.
        method: A method, of which one without classes is asked for none, or "random".
        path: The `.npy` file [N, S, S] float32; it appears complete or not at all.
        seed: Decides random maps.

    Returns:
        [N, S, S] in 0..1, which stay on disk until they are looked at.

    Raises:
        KliegError: as `Explainer.explain`.
    """
    if not path.exists():
        size = explainer.info.input_size
        with atomic_path(path) as temporary:
            maps = np.lib.format.open_memmap(
                temporary, "w+", np.float32, shape=(len(photos), size, size)
            )
            if method == RANDOM:
                for number in range(len(photos)):
                    maps[number] = np.random.default_rng([seed, 6, number]).random((size, size))
            else:
                labels = [photo.label for photo in photos]
                done = 0
                for part in explainer.explain_iter(
                    [photo.path for photo in photos],
                    method=method,
                    target=None if find_method(method).class_free else labels,
                ):
                    maps[done : done + len(part)] = part.maps
                    done += len(part)
            maps.flush()
            del maps  # Windows renames no file that is mapped
    kept: Maps = np.load(path, mmap_mode="r")
    return kept


class ErasedPhotos(Dataset[tuple[Tensor, int]]):
    """Photos at the model's size, normalised, their top pixels in the model's mean colour."""

    def __init__(
        self,
        explainer: Explainer,
        photos: Sequence[Photo],
        *,
        maps: Maps | None = None,
        share: float = 0,
        seed: int = 0,
    ) -> None:
        """Take the photos; they are read when they are asked for.

        Args:
            explainer: Its file says how images are scaled and normalised.
            photos: N photos.
            maps: [N, S, S] of the photos; None where nothing is removed.
            share: Share of the pixels that is removed, 0..1.
            seed: Decides which of equal pixels come first.
        """
        self._explainer, self._photos, self._maps = explainer, photos, maps
        self._share, self._seed = share, seed
        self._mean, self._std = (
            np.array(numbers, dtype=np.float32)[:, None, None]
            for numbers in (explainer.info.mean, explainer.info.std)
        )

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self._photos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return image [C, S, S] float32 and label."""
        photo, explainer = self._photos[index], self._explainer
        (image,), _ = explainer.prepare([photo.path])
        image = (image / 255 - self._mean) / self._std
        if self._maps is not None:
            image[:, top_pixels(self._maps[index], self._share, seed=(self._seed, 7, index))] = 0
        return torch.from_numpy(image), photo.label


def top_pixels(
    saliency: NDArray[np.float32], share: float, *, seed: Sequence[int]
) -> NDArray[np.bool_]:
    """Return the pixels [H, W] of a map [H, W] that rank highest, a share of all.

    Equal pixels come in a random order: many maps are 0 over half the image, and in the order of
    rows they all would lose its upper part first.
    """
    lots = np.random.default_rng(seed).random(saliency.size)
    order = np.lexsort((lots, -saliency.ravel()))
    chosen = np.zeros(saliency.size, dtype=np.bool_)
    chosen[order[: round(share * saliency.size)]] = True
    return chosen.reshape(saliency.shape)
