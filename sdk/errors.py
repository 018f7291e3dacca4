"""Every error klieg raises on purpose, in one tree.

KliegError
|-- InputError                    what the caller handed over cannot be used
|   |-- ImageError                an image: wrong shape, type, range, NaN
|   |   |-- ImageDecodeError      a file that is no readable, complete image
|   |   `-- ImageTooLargeError    a file whose header claims too many pixels
|   |-- TargetError               a class that the model does not have, or a wrong number of them
|   `-- OptionError               an option with an impossible value
|-- ExplainerFileError            a file that is no explainer
|   `-- UnsafeFileError           a file that reaches outside itself
|-- BackendError                  the inference engine is missing or failed
|   |-- NumericalError            the model answered with NaN or infinity
|   |-- EngineError               a compiled engine: missing, altered, another GPU's
|   `-- DeviceError               a GPU: none there, wrong driver, a failure on it
|       `-- DeviceMemoryError     its memory is full
|-- TrainingError                 a masker cannot be trained as asked
|   |-- DataError                 photos or labels to train on
|   |-- DivergedError             a term of the loss became NaN or infinite
|   `-- CheckpointError           a checkpoint or a masker file: damaged, of another run, disk full
|-- EvaluationError               an evaluation cannot be done or continued
`-- ExportError                   a classifier that cannot become an explainer
    |-- GradientError             the graph cannot be differentiated as asked
    |   `-- UnsupportedOperatorError   an operator on the path has no rule
    `-- ParityError               the exported file disagrees with the original
"""

from __future__ import annotations


class KliegError(Exception):
    """Root of all errors that klieg raises on purpose."""


class InputError(KliegError, ValueError):
    """What the caller handed over cannot be used."""


class ImageError(InputError):
    """An image has a wrong shape, type or range, or holds NaN or infinity."""


class ImageDecodeError(ImageError):
    """A file is not a readable, complete image."""


class ImageTooLargeError(ImageError):
    """The header of an image file claims more pixels than klieg decodes."""


class TargetError(InputError):
    """A target names a class the model does not have, or the number of targets is wrong."""


class OptionError(InputError):
    """An option has an impossible value."""


class ExplainerFileError(KliegError):
    """A file is not an explainer that this version can use."""


class UnsafeFileError(ExplainerFileError):
    """A model file refers to data outside itself."""


class BackendError(KliegError):
    """The inference engine is missing, or it failed."""


class NumericalError(BackendError):
    """The model answered with NaN or infinity."""


class EngineError(BackendError):
    """A compiled engine is missing, altered, or of another GPU, version or image size."""


class DeviceError(BackendError):
    """There is no usable GPU, or something on it failed."""


class DeviceMemoryError(DeviceError):
    """The memory of the GPU is full."""


class TrainingError(KliegError):
    """A masker cannot be trained as asked."""


class DataError(TrainingError):
    """The photos or labels to train on cannot be used."""


class DivergedError(TrainingError):
    """A term of the loss became NaN or infinite."""


class CheckpointError(TrainingError):
    """A checkpoint or masker file is damaged, belongs to something else, or cannot be written."""


class EvaluationError(KliegError):
    """An evaluation cannot be done as asked, or continued in that folder."""


class ExportError(KliegError):
    """A classifier cannot be turned into an explainer."""


class GradientError(ExportError):
    """The graph cannot be differentiated as asked."""


class UnsupportedOperatorError(GradientError):
    """An operator on the path to be differentiated has no rule."""


class ParityError(ExportError):
    """The exported file disagrees with the original classifier."""
