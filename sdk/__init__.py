"""klieg: explain what an image classifier saw, on any machine that can run forward inference."""

if __name__ != "klieg":
    raise ImportError("this is the source folder of klieg: install the project and `import klieg`")

import importlib
from typing import TYPE_CHECKING, Any, Final

from klieg.errors import KliegError as KliegError

if TYPE_CHECKING:
    from klieg.class_models import ClassModel as ClassModel
    from klieg.class_models import class_model as class_model
    from klieg.explainer import Explainer as Explainer
    from klieg.explanation import Explanation as Explanation

__all__ = ["ClassModel", "Explainer", "Explanation", "KliegError", "class_model"]

_LATE: Final = {
    "ClassModel": "klieg.class_models",
    "Explainer": "klieg.explainer",
    "Explanation": "klieg.explanation",
    "class_model": "klieg.class_models",
}


def __getattr__(name: str) -> Any:
    """Import the runtime when it is first used, so that `import klieg` and the help stay quick."""
    if name not in _LATE:
        raise AttributeError(f"module 'klieg' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
