"""A whole training run in one folder, resumable at any moment.

The folder holds config.toml, which reproduces the run, log.csv with the terms of every step,
scores.csv with scores on held-out photos, pictures/, checkpoints/, pool/ and in the end
masker.safetensors.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from klieg.errors import CheckpointError, DivergedError, OptionError
from klieg.export.classifiers.sources import Source, open_source
from klieg.export.classifiers.weights import weights_sha256
from klieg.training.checkpoint import Checkpoints, RunState
from klieg.training.data.batches import Batch, Schedule, derived_seed, readable, training_batches
from klieg.training.data.photos import Photos, find_photos
from klieg.training.log import Log
from klieg.training.model.critics import Critics
from klieg.training.model.infilling import open_infiller
from klieg.training.model.masker import Masker
from klieg.training.model.taps import TappedClassifier, default_taps, module_paths
from klieg.training.model.trained_masker import TrainedMasker
from klieg.training.optimisers import Optimisers
from klieg.training.pictures import EXAMPLES, save_examples
from klieg.training.settings.configuration import table_of, with_absolute_paths, write_options
from klieg.training.settings.options import TrainingOptions
from klieg.training.step import Step, compute_step
from klieg.training.validation import validate

CONFIG: Final = "config.toml"
LOG: Final = "log.csv"
SCORES: Final = "scores.csv"
MASKER: Final = "masker.safetensors"


def train(
    options: TrainingOptions,
    folder: str | os.PathLike[str],
    *,
    classifier: nn.Module | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    progress: bool = True,
) -> TrainedMasker:
    """Train a masker; a run that was interrupted in this folder goes on where it was.

    Args:
        options: Everything that decides the weights.
        folder: For the run's files; it may hold an interrupted run of the same options.
        classifier: A torch module that maps normalised images to logits, in place of the source
            that `options.classifier` names; `options.mean` and `options.std` are then needed.
        accelerator: What computes, in the words of Lightning Fabric: "auto", "cpu", "cuda".
        devices: Number of GPUs or processes; the batch is shared among them.
        progress: Whether to show a progress bar.

    Returns:
        The masker, which also stands in the folder as masker.safetensors.

    Raises:
        OptionError: an option has an impossible value.
        DataError: the photos or labels cannot be used.
        DivergedError: a term of the loss became NaN; the last good checkpoint stays.
        CheckpointError: the folder is of another run, or the disk is full.
    """
    options = with_absolute_paths(options, Path())
    source = source_of(options, classifier)
    fabric = Fabric(accelerator=accelerator, devices=devices, precision=options.optimiser.precision)
    fabric.launch()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(options.threads or threads)
        return _Run(options, Path(folder), source, fabric).finish(progress=progress)
    except OSError as error:  # a full disk shows itself wherever something is written
        raise CheckpointError(
            f"the run in {folder} cannot go on: {error}; checkpoints that it has written are intact"
        ) from error
    finally:
        torch.set_num_threads(threads)


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


class _Run:
    """Everything that a run consists of, ready for the next step."""

    def __init__(
        self, options: TrainingOptions, folder: Path, source: Source, fabric: Fabric
    ) -> None:
        if options.optimiser.batch_size < 2 * fabric.world_size:
            raise OptionError(
                f"optimiser.batch_size is {options.optimiser.batch_size} for {fabric.world_size} "
                "processes, expected at least 2 photos for each"
            )
        self.options, self.folder, self.fabric = options, folder, fabric
        self.source = source
        self.classifier = cast(nn.Module, source.model)
        size, channels = options.data.image_size, len(source.mean)
        taps = module_paths(self.classifier, options.masker.taps) or default_taps(
            self.classifier, options.masker.decoder, size=source.input_size, channels=channels
        )
        self.critics = Critics(self.classifier, options.critics, taps)
        self.critics.to(fabric.device)
        blank = torch.zeros(2, channels, size, size, device=fabric.device)
        with torch.no_grad():
            logits, activations = self.critics.original(blank)
        self.photos: Photos = find_photos(options.data, classes=logits.shape[1], seed=options.seed)
        self.schedule = Schedule(len(self.photos.training), options.optimiser, options.seed)
        torch.manual_seed(derived_seed(options.seed, 0))
        widths = [activation.shape[1] for activation in activations]
        self.masker = Masker(replace(options.masker, taps=taps), widths).to(fabric.device)
        self.average = _average(self.masker, options.optimiser.averaging)
        self.optimisers = Optimisers(
            self.masker,
            self.critics,
            masker_options=options.optimiser,
            critic_options=options.critics,
            steps_per_epoch=self.schedule.steps_per_epoch,
        )
        self.infill = open_infiller(
            options.infill, mean=source.mean, std=source.std, device=fabric.device
        )
        self.sha256 = weights_sha256(self.classifier)
        self.checkpoints = Checkpoints(
            folder, config=table_of(options), classifier_sha256=self.sha256
        )

    def finish(self, *, progress: bool) -> TrainedMasker:
        """Do the steps that are left and write the masker."""
        done = self.checkpoints.restore(self.state())
        if self.fabric.is_global_zero:
            write_options(self.options, self.folder / CONFIG)
        log = Log(self.folder / LOG, done=done) if self.fabric.is_global_zero else None
        scores = Log(self.folder / SCORES, done=done) if self.fabric.is_global_zero else None
        steps, per_epoch = self.schedule.steps, self.schedule.steps_per_epoch
        every = self.options.checkpoint_every or per_epoch
        batches = training_batches(
            self.photos.training,
            self.options.data,
            self.schedule,
            range(done, steps),
            share=slice(self.fabric.global_rank, None, self.fabric.world_size),
        )
        bar = tqdm(total=steps, initial=done, unit="step", disable=not progress or log is None)
        with bar:
            for step, batch in enumerate(batches, start=done):
                terms = self.step(step, batch)
                bar.update()
                bar.set_postfix(
                    {name: f"{value:.3g}" for name, value in terms.items()}, refresh=False
                )
                if log is None or scores is None:
                    continue
                log.add(step + 1, terms)
                epoch, rest = divmod(step + 1, per_epoch)
                if not rest and (epoch % self.options.look_every == 0 or step + 1 == steps):
                    self.look(epoch, scores)
                if (step + 1) % every == 0 or step + 1 == steps:
                    self.checkpoints.save(step + 1, self.state())
        trained = self.trained()
        if self.fabric.is_global_zero:
            trained.save(self.folder / MASKER)
        return trained

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """Take one step and return the terms of its loss."""
        torch.manual_seed(derived_seed(self.options.seed, step, self.fabric.global_rank))
        images = self.normalised(batch.images)
        with self.fabric.autocast():
            labels = self.labels(images, batch.labels)
            found = compute_step(
                images,
                labels,
                masker=self.masker,
                critics=self.critics,
                objective=self.options.objective,
                infill=self.infill,
                generator=np.random.default_rng([self.options.seed, 4, step]),
            )
        self.check_finite(step, found)
        self.optimisers.set_rates(step)
        for gradients in found.learner:
            self.optimisers.move_learner(self.shared(gradients))
        self.optimisers.move_masker(self.shared(found.masker))
        self.critics.remember(
            step + 1,
            step % self.schedule.steps_per_epoch,
            np.random.default_rng([self.options.seed, 5, step]),
        )
        if self.average is not None:
            self.average.update_parameters(self.masker)
        return found.terms

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images [B, 3, S, S] in 0..1 for the classifier."""
        images = images.to(self.fabric.device, memory_format=torch.channels_last)
        normalised: Tensor = (images - self.infill.mean) / self.infill.std
        return normalised

    def labels(self, images: Tensor, given: Tensor) -> Tensor:
        """Return the labels [B] to train with."""
        if self.options.data.labels == "given":
            return given.to(self.fabric.device)
        with torch.no_grad():
            logits: Tensor = self.critics.original(images)[0]
            return logits.argmax(dim=1)

    def check_finite(self, step: int, found: Step) -> None:
        """Stop before a NaN reaches any weight."""
        bad = [name for name, value in found.terms.items() if not math.isfinite(value)]
        gradients = [*found.masker, *(gradient for one in found.learner for gradient in one)]
        if bad or not all(bool(gradient.isfinite().all()) for gradient in gradients):
            at = self.checkpoints.steps()
            kept = f"the checkpoint after step {at[-1]} is intact" if at else "no checkpoint yet"
            raise DivergedError(
                f"{', '.join(bad) or 'a gradient'} became NaN or infinite at step {step + 1}; "
                f"{kept}: lower optimiser.learning_rate, or look at the photos of that step"
            )

    def shared(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Average gradients over all processes."""
        if self.fabric.world_size == 1:
            return gradients
        return [self.fabric.all_reduce(gradient, reduce_op="mean") for gradient in gradients]  # type: ignore[misc]

    def state(self) -> RunState:
        """Return all that changes during the run."""
        return RunState(self.masker, self.average, self.critics, self.optimisers.by_name)

    def trained(self) -> TrainedMasker:
        """Return the masker as it is now, averaged if asked for."""
        masker = copy.deepcopy(self.kept_masker).cpu().eval()
        weights = None
        if self.critics.reads_learner:
            state = self.reader.classifier.state_dict()
            weights = {name: tensor.cpu().clone() for name, tensor in state.items()}
        return TrainedMasker(masker, self.options, self.sha256, weights)

    @property
    def kept_masker(self) -> Masker:
        """The masker that the run is about: the averaged one if there is an average."""
        return self.masker if self.average is None else cast(Masker, self.average.module)

    @property
    def reader(self) -> TappedClassifier:
        """The classifier that the masker reads."""
        learner = self.critics.learner
        return learner if learner and self.critics.reads_learner else self.critics.original

    def look(self, epoch: int, scores: Log) -> None:
        """Write example masks, and scores if photos are held out."""
        held_out = list(readable(self.photos.held_out, self.options.data))
        if held_out:
            found = validate(
                held_out,
                size=self.source.input_size,
                normalise=self.normalised,
                label=self.labels,
                original=self.critics.original,
                reader=self.reader,
                masker=self.kept_masker,
            )
            scores.add(epoch * self.schedule.steps_per_epoch, asdict(found))
        photos = held_out or readable(self.photos.training, self.options.data)
        save_examples(
            self.folder / "pictures" / f"epoch-{epoch:04}.png",
            list(islice(photos, EXAMPLES)),
            size=self.options.data.image_size,
            normalise=self.normalised,
            classifier=self.reader,
            masker=self.kept_masker,
        )


def _average(masker: Masker, decay: float) -> AveragedModel | None:
    """Return the running average of the weights, None if none is wanted."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(masker, multi_avg_fn=average, use_buffers=True)
