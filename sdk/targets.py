"""Which class to explain: numbers, names, or the predicted one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from numbers import Integral
from typing import Any, Final, TypeGuard, TypeVar

from klieg.errors import TargetError

Target = int | str | None
PREDICTED: Final = -1
T = TypeVar("T")


def resolve_target(target: Target, *, classes: int, names: tuple[str, ...] | None) -> int:
    """Return the number of a class, -1 for the predicted one.

    Args:
        target: A class number, a class name, or None for the predicted class.
        classes: Number of classes.
        names: One name per class, if known.

    Raises:
        TargetError: there is no such class, or several have that name.
    """
    if target is None:
        return PREDICTED
    if isinstance(target, str):
        return _by_name(target, names)
    if not isinstance(target, Integral) or isinstance(target, bool):
        raise TargetError(
            f"target is {target!r} ({type(target).__name__}), expected a class number, a "
            "class name or None for the predicted class"
        )
    if not 0 <= target < classes:
        raise TargetError(f"target {target} is out of range, expected 0..{classes - 1}")
    return int(target)


def is_single(target: Target | Iterable[Target]) -> TypeGuard[Target]:
    """Return True for one target for all images, False for one per image."""
    return isinstance(target, str) or not isinstance(target, Iterable)


def paired(images: Iterable[T], target: Target | Iterable[Target]) -> Iterator[tuple[T, Target]]:
    """Yield every image with its target.

    Raises:
        TargetError: there are more images than targets, or more targets than images.
    """
    if is_single(target):
        yield from ((image, target) for image in images)
        return
    missing = object()
    pairs: Iterator[Any] = zip_longest(images, target, fillvalue=missing)  # type: ignore[arg-type]
    for number, (image, one) in enumerate(pairs):
        if image is missing or one is missing:
            fewer, more = ("images", "targets") if image is missing else ("targets", "images")
            raise TargetError(
                f"got {number} {fewer} but more {more}, expected one target per image, "
                "or a single one for all"
            )
        yield image, one


def _by_name(name: str, names: tuple[str, ...] | None) -> int:
    if names is None:
        raise TargetError(
            f"target {name!r} is a name, but the explainer file has no class names: pass a number"
        )
    found = [index for index, candidate in enumerate(names) if candidate == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise TargetError(f"{len(found)} classes are named {name!r}: pass one of {found}")
    near = [n for n in names if name.lower() in n.lower()][:3]
    near = near or difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`klieg inspect` lists them"
    raise TargetError(f"no class is named {name!r}: {hint}")
