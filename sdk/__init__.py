"""klieg: explain what an image classifier saw, on any machine that can run forward inference."""

if __name__ != "klieg":
    raise ImportError("this is the source folder of klieg: install the project and `import klieg`")

import importlib
from typing import TYPE_CHECKING, Any, Final

from klieg.errors import KliegError as KliegError
from klieg.renamed import install as _accept_old_names

if TYPE_CHECKING:
    from klieg.backends.onnxruntime import OnnxRuntime as OnnxRuntime
    from klieg.backends.tensorrt import TensorRT as TensorRT
    from klieg.class_models import ClassModel as ClassModel
    from klieg.class_models import class_model as class_model
    from klieg.explainer import Explainer as Explainer
    from klieg.explanation import Explanation as Explanation
    from klieg.kernels.device.opening import open_device as open_device

__all__ = [
    "ClassModel",
    "Explainer",
    "Explanation",
    "KliegError",
    "OnnxRuntime",
    "TensorRT",
    "class_model",
    "open_device",
]

_accept_old_names()

_LATE: Final = {
    "ClassModel": "klieg.class_models",
    "Explainer": "klieg.explainer",
    "Explanation": "klieg.explanation",
    "OnnxRuntime": "klieg.backends.onnxruntime",
    "TensorRT": "klieg.backends.tensorrt",
    "class_model": "klieg.class_models",
    "open_device": "klieg.kernels.device.opening",
}


def __getattr__(name: str) -> Any:
    """Import the runtime when it is first used, so that `import klieg` and the help stay quick."""
    if name not in _LATE:
        raise AttributeError(f"module 'klieg' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
