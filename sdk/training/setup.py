"""The parts of a training run: photos, classifiers, masker, optimisers, ready for a step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from klieg.errors import OptionError
from klieg.export.classifiers.sources import Source, open_source
from klieg.export.classifiers.weights import weights_sha256
from klieg.training.checkpoint import RunState
from klieg.training.data.batches import Schedule, derived_seed
from klieg.training.data.photos import Photos, find_photos
from klieg.training.model.critics import Critics
from klieg.training.model.infilling import Infiller, open_infiller
from klieg.training.model.masker import Masker
from klieg.training.model.taps import TappedClassifier, default_taps, module_paths
from klieg.training.model.trained_masker import TrainedMasker
from klieg.training.optimisers import Optimisers
from klieg.training.settings.options import TrainingOptions


@dataclass(frozen=True)
class Setup:
    """The parts of a run; what changes in them while it goes on is `state`."""

    options: TrainingOptions
    fabric: Fabric
    input_size: int
    """Height and width in pixels that the classifier is made for."""
    classifier_sha256: str
    photos: Photos
    schedule: Schedule
    critics: Critics
    masker: Masker
    average: AveragedModel | None
    """The running average of the masker's weights, if one is kept."""
    optimisers: Optimisers
    infill: Infiller

    @property
    def state(self) -> RunState:
        """All that changes during the run."""
        return RunState(self.masker, self.average, self.critics, self.optimisers.by_name)

    @property
    def kept_masker(self) -> Masker:
        """The masker that the run ends with: the average, if one is kept."""
        return self.masker if self.average is None else cast(Masker, self.average.module)

    @property
    def reader(self) -> TappedClassifier:
        """The classifier whose activations the masker reads."""
        learner = self.critics.learner
        return learner if learner and self.critics.reads_learner else self.critics.original

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images [B, 3, S, S] in 0..1 for the classifier."""
        images = images.to(self.fabric.device, memory_format=torch.channels_last)
        normalised: Tensor = (images - self.infill.mean) / self.infill.std
        return normalised

    def labels(self, images: Tensor, given: Tensor) -> Tensor:
        """Return the labels [B] to train with: those of the photos, or predicted for images."""
        if self.options.data.labels == "given":
            return given.to(self.fabric.device)
        with torch.no_grad():
            logits: Tensor = self.critics.original(images)[0]
            return logits.argmax(dim=1)

    def shared(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Average gradients over all processes."""
        if self.fabric.world_size == 1:
            return gradients
        return [self.fabric.all_reduce(gradient, reduce_op="mean") for gradient in gradients]  # type: ignore[misc]

    def trained(self) -> TrainedMasker:
        """Return a copy of the masker as it is now, on the processor."""
        masker = copy.deepcopy(self.kept_masker).cpu().eval()
        weights = None
        if self.critics.reads_learner:
            state = self.reader.classifier.state_dict()
            weights = {name: tensor.cpu().clone() for name, tensor in state.items()}
        return TrainedMasker(masker, self.options, self.classifier_sha256, weights)


def set_up(options: TrainingOptions, source: Source, fabric: Fabric) -> Setup:
    """Make the parts of a run.

    Raises:
        OptionError: an option has an impossible value.
        DataError: the photos or labels cannot be used.
        TrainingError: the classifier has no such layers.
    """
    if options.optimiser.batch_size < 2 * fabric.world_size:
        raise OptionError(
            f"optimiser.batch_size is {options.optimiser.batch_size} for {fabric.world_size} "
            "processes, expected at least 2 photos for each"
        )
    classifier = cast(nn.Module, source.model)
    size, channels = options.data.image_size, len(source.mean)
    taps = module_paths(classifier, options.masker.taps) or default_taps(
        classifier, options.masker.decoder, size=source.input_size, channels=channels
    )
    critics = Critics(classifier, options.critics, taps)
    critics.to(fabric.device)
    with torch.no_grad():
        logits, activations = critics.original(
            torch.zeros(2, channels, size, size, device=fabric.device)
        )
    photos = find_photos(options.data, classes=logits.shape[1], seed=options.seed)
    schedule = Schedule(len(photos.training), options.optimiser, options.seed)
    torch.manual_seed(derived_seed(options.seed, 0))
    masker = Masker(
        replace(options.masker, taps=taps), [activation.shape[1] for activation in activations]
    ).to(fabric.device)
    return Setup(
        options=options,
        fabric=fabric,
        input_size=source.input_size,
        classifier_sha256=weights_sha256(classifier),
        photos=photos,
        schedule=schedule,
        critics=critics,
        masker=masker,
        average=_average(masker, options.optimiser.averaging),
        optimisers=Optimisers(
            masker,
            critics,
            masker_options=options.optimiser,
            critic_options=options.critics,
            steps_per_epoch=schedule.steps_per_epoch,
        ),
        infill=open_infiller(
            options.infill, mean=source.mean, std=source.std, device=fabric.device
        ),
    )


def source_of(options: TrainingOptions, classifier: nn.Module | None) -> Source:
    """Open the classifier with what has to be known about its images; see `train`.

    Raises:
        OptionError: mean and std are missing, or the classifier is no torch module.
    """
    if classifier is None:
        found = open_source(
            options.classifier,
            input_size=None,
            mean=options.mean,
            std=options.std,
            class_names=None,
        )
        if not isinstance(found.model, nn.Module):
            raise OptionError("an ONNX file cannot be trained on: expected a torch module")
        return found
    if options.mean is None or options.std is None:
        raise OptionError("mean and std are needed for a classifier that is given as a module")
    return Source(classifier, options.data.image_size, options.mean, options.std, None)


def _average(masker: Masker, decay: float) -> AveragedModel | None:
    """Return the running average of the weights, None if none is wanted."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(masker, multi_avg_fn=average, use_buffers=True)
