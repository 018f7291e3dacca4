"""Everything that decides a training run, as frozen dataclasses: a config file holds just these.

Types and ranges are checked by pydantic when an object is made.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

# Defaults are validated so that 0 becomes 0.0, as it is once read from a file.
_STRICT: Final = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

Variant = Literal["paper", "released"]

NETWORK_SUFFIXES: Final = (".onnx", ".pt", ".ts")
"""Suffixes of the files of inpainting networks."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MaskerOptions:
    """The masker, which turns activations into a mask."""

    decoder: Literal["casm", "simplified"] = "simplified"
    """Taps that are chosen where none are named: five, the first one raw, or the last two."""
    taps: tuple[str, ...] = ()
    """Layers of the classifier: module paths, or the node names of torchvision's feature
    extractor for the last calls of modules."""
    raw_first: bool = False
    """True to let the first tap enter without a convolution of its own."""
    channels: Count = 64
    """Channels that every other tap is brought to."""
    stride: Count = 4
    """Pixels of the image along each side of a cell of the mask."""
    enlargement: Literal["nearest", "bilinear"] = "nearest"
    """How the mask gets from its cells to the pixels."""
    initialisation: Literal["fan_out", "fan_in"] = "fan_out"
    """He's initialisation, by the variance of gradients, as released, or of activations. With one
    output channel the first gives logits of tens, masks that are black and white from the
    start, and a long way to anything else; runs of hundreds of steps need the second."""
    gumbel: Literal["none", "soft", "hard"] = "none"
    """Binary concrete masks while training; in use such masks are binary."""
    temperature: Positive = 0.1
    """Temperature of the binary concrete distribution, its start where it is learned."""
    learn_temperature: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ObjectiveOptions:
    """Weights of the loss; see `objectives` for the equations."""

    out_entropy: NotNegative = 0
    """Weight of the entropy of the masked-out image, maximised."""
    out_classification: NotNegative = 0
    """Weight of the cross entropy of the masked-out image, maximised."""
    in_classification: NotNegative = 0
    """Weight of the cross entropy of the masked-in image, minimised."""
    size_out: NotNegative = 0
    """Weight of the mask's mean, where the masked-out image is no longer classified right."""
    size_in: NotNegative = 0
    """Weight of the mask's mean, where the masked-in image is classified right."""
    variation: NotNegative = 0
    """Weight of the total variation."""
    variation_variant: Variant = "released"
    """As printed, or with the border penalty and once per direction as in the released code."""
    area: Share = 0
    """Mean that masks are drawn to by `area_weight`."""
    area_weight: NotNegative = 0
    """Weight of the squared distance of a mask's mean from `area`."""

    @property
    def judges_out(self) -> bool:
        """Whether masked-out images are looked at."""
        return bool(self.out_entropy or self.out_classification or self.size_out)

    @property
    def judges_in(self) -> bool:
        """Whether masked-in images are looked at."""
        return bool(self.in_classification or self.size_in)

    @model_validator(mode="after")
    def _is_an_objective(self) -> Self:
        if not (self.out_entropy or self.out_classification or self.in_classification):
            raise ValueError(
                "no objective: give out_entropy, out_classification or "
                "in_classification a weight above 0"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CriticOptions:
    """The classifiers that judge masked images."""

    regime: Literal["fixed", "agnostic"] = "agnostic"
    """The original classifier alone, or copies of it that go on learning."""
    taps: Literal["frozen", "trained"] = "frozen"
    """Whose activations the masker reads: the original's, which is then deployed unchanged, or
    those of the copy that learns, which is then deployed with the masker, as published."""
    historic: Share = 0
    """Probability that a batch is judged by a classifier from the pool, which does not learn."""
    pool_size: Count = 30
    """Classifiers in the pool; when full a random one makes room."""
    snapshot_every: Count = 100
    """Batches of an epoch between two snapshots; the first batch of all gives one too."""
    use_pool: bool = True
    """False: such a batch is judged by the present classifier, without its learning, as in the
    released code of the simplified recipe."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Height and width in pixels of the images that are judged, None for those of the data. Judges
    take most of the time, and masks have fewer cells than images have pixels."""
    mode: Literal["train", "eval"] = "train"
    """How the copy that learns runs: as published with dropout, and batch normalisation by the
    batch at hand, masked ones too; or without, its statistics staying the original's."""
    learning_rate: Positive = 1e-3
    momentum: Share = 0.9
    weight_decay: NotNegative = 1e-4


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataOptions:
    """The photos to train on."""

    path: str
    """A folder with one folder per class, a CSV file, or an ImageNet folder (`layout`)."""
    layout: Literal["folders", "csv", "imagenet"] = "folders"
    labels: Literal["given", "predicted"] = "given"
    """The data's labels, or what the original classifier predicts: no labels are needed then."""
    classes: Count | None = None
    """Number of classes drawn, None for all."""
    per_class: Count | None = None
    """Number of photos drawn of each class, None for all."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0
    """Share of the photos that is kept for validation."""
    unreadable: Literal["error", "skip"] = "error"
    """How a photo that cannot be read is treated."""
    image_size: Annotated[int, Field(ge=8)] = 224
    """Height and width of the crops in pixels."""
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 0.08
    """Least share of a photo's area that a random crop takes."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read photos, 0 for the training process itself."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class OptimiserOptions:
    """How the weights of the masker move."""

    epochs: Count = 60
    batch_size: Annotated[int, Field(ge=2)] = 72
    share_per_epoch: Annotated[float, Field(gt=0, le=1)] = 1
    """Share of the shuffled photos that is one epoch; 0.2 as published."""
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-4
    gradient_norm: Positive = 10
    """Gradients of a larger norm are scaled down to it."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rates: a tenth every `decay_every` epochs, or half a cosine down to 0."""
    decay_every: Count = 20
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0
    """Decay per step of the average of the weights that is kept; 0 keeps the last weights."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainingOptions:
    """A whole run; with the data it alone decides the weights."""

    classifier: str = "efficientnet-lite0"
    """A source of `klieg export`: a name, or "module:function" that returns a torch module."""
    mean: tuple[float, float, float] | None = None
    """Mean per channel in 0..1 units of what the classifier was trained on, None if known."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Standard deviation per channel, likewise."""
    data: DataOptions
    masker: MaskerOptions = field(default_factory=MaskerOptions)
    objective: ObjectiveOptions
    critics: CriticOptions = field(default_factory=CriticOptions)
    infill: str = "mean"
    """The masked part of an image: its "mean" colour, "black", "blur", "telea", or the path of an
    inpainting network (.onnx or TorchScript .pt)."""
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    checkpoint_every: Count | None = None
    """Steps between checkpoints, None for one per epoch."""
    look_every: Count = 5
    """Epochs between pictures of example masks and scores of held-out photos."""
    threads: Count | None = None
    """Threads of the processor that torch uses, None for its own choice. Another number rounds
    sums in another order."""
