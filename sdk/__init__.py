"""klieg: explain what an image classifier saw, on any machine that can run forward inference."""

if __name__ != "klieg":
    raise ImportError("this is the source folder of klieg: install the project and `import klieg`")

from typing import TYPE_CHECKING, Any

from klieg.errors import KliegError as KliegError

if TYPE_CHECKING:
    from klieg.explainer import Explainer as Explainer
    from klieg.explanation import Explanation as Explanation

__all__ = ["Explainer", "Explanation", "KliegError"]


def __getattr__(name: str) -> Any:
    """Import the runtime when it is first used, so that `import klieg` and the help stay quick."""
    if name == "Explainer":
        from klieg.explainer import Explainer

        return Explainer
    if name == "Explanation":
        from klieg.explanation import Explanation

        return Explanation
    raise AttributeError(f"module 'klieg' has no attribute {name!r}")
