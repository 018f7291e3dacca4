"""The input of a metric: the maps of one method for N questions, and the photos they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from klieg.evaluation.metrics.confidence import masked
from klieg.evaluation.metrics.saliency_metric import enlarged_crops
from klieg.evaluation.questions import Question, boxes_on_grid, mask_on_grid
from klieg.images.fitting import Placement
from klieg.maps.regions import Rule, binarise, bounding_boxes
from klieg.methods.model import Model
from klieg.model_file.probabilities import probabilities


@dataclass(frozen=True)
class Scene:
    """N questions about the photos of a batch, the same for every method."""

    model: Model
    images: NDArray[np.float32]
    """[B, C, S, S] in 0..255, the model's input."""
    logits: NDArray[np.float32]
    """[B, classes]"""
    placements: tuple[Placement, ...]
    """[B]"""
    ignored: tuple[NDArray[np.bool_] | None, ...]
    """B masks [H, W] of what counts neither as object nor as background."""
    questions: tuple[Question, ...]
    """[N]"""
    image_index: NDArray[np.int64]
    """[N] which image each question is about."""
    targets: NDArray[np.int64]
    """[N] the class to be explained."""

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """[N] True where the predicted class is one of the category's."""
        predicted = self.logits.argmax(axis=1)[self.image_index]
        pairs = zip(predicted, self.questions, strict=True)
        return np.array([one in question.classes for one, question in pairs], dtype=np.bool_)

    @cached_property
    def boxes(self) -> list[NDArray[np.float64]]:
        """N arrays [n, 4] on the model's input grid."""
        return [
            boxes_on_grid(question.boxes, self.placements[image_index])
            for question, image_index in zip(self.questions, self.image_index, strict=True)
        ]

    @cached_property
    def objects(self) -> NDArray[np.bool_]:
        """[N, S, S] True on objects."""
        return np.stack(
            [
                mask_on_grid(question.objects, self.placements[image_index], outside=False)
                for question, image_index in zip(self.questions, self.image_index, strict=True)
            ]
        )

    @cached_property
    def ignore(self) -> NDArray[np.bool_]:
        """[N, S, S] True where a pixel does not count; padding never does."""
        grids = [
            mask_on_grid(
                np.zeros((placement.height, placement.width)) if mask is None else mask,
                placement,
                outside=True,
            )
            for mask, placement in zip(self.ignored, self.placements, strict=True)
        ]
        return np.stack(grids)[self.image_index]

    @cached_property
    def has_mask(self) -> NDArray[np.bool_]:
        """[N] True where objects are known by their pixels, not only by boxes."""
        return np.array([question.has_mask for question in self.questions], dtype=np.bool_)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """[N] probability of the target on the whole image."""
        chances = probabilities(self.logits, self.model.probability)
        return chances[self.image_index, self.targets].astype(np.float64)

    def probability(
        self, images: NDArray[np.float32], targets: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the probability [n] of a class each on images [n, C, S, S]."""
        chances = probabilities(self.model.logits(images), self.model.probability)
        return chances[np.arange(len(images)), targets].astype(np.float64)


@dataclass(frozen=True)
class Case:
    """The maps of one method for the questions of a scene."""

    scene: Scene
    maps: NDArray[np.float32]
    """[N, S, S] in 0..1 on the model's input grid."""
    rule: Rule
    """How maps become regions."""

    @cached_property
    def photo_maps(self) -> Sequence[NDArray[np.float32]]:
        """N maps [H, W] on the photos' pixels."""
        placements = (self.scene.placements[image_index] for image_index in self.scene.image_index)
        pairs = zip(placements, self.maps, strict=True)
        return [placement.to_photo(one) for placement, one in pairs]

    @cached_property
    def boxes(self) -> NDArray[np.int64]:
        """[N, 4] round the largest salient component, on the model's input grid."""
        return bounding_boxes(binarise(self.maps, rule=self.rule))

    @cached_property
    def kept(self) -> NDArray[np.float64]:
        """[N] probability of the target where the map shows the image, mean colour elsewhere."""
        return self._masked(self.maps)

    @cached_property
    def removed(self) -> NDArray[np.float64]:
        """[N] probability of the target where the map hides the image."""
        return self._masked(1 - self.maps)

    @cached_property
    def cropped(self) -> NDArray[np.float64]:
        """[N] probability of the target on the map's box, enlarged to the model's input."""
        scene = self.scene
        images = enlarged_crops(
            scene.images[scene.image_index], self.boxes, fill=scene.model.mean_colour
        )
        return scene.probability(images, scene.targets)

    def _masked(self, maps: NDArray[np.float32]) -> NDArray[np.float64]:
        scene = self.scene
        images = masked(scene.images[scene.image_index], maps, fill=scene.model.mean_colour)
        return scene.probability(images, scene.targets)
