"""Which class to explain: numbers, names, or the predicted one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from itertools import repeat
from numbers import Integral
from typing import Final, TypeGuard

from klieg.errors import TargetError

Target = int | str | None
Targets = Target | Iterable[Target | Iterable[Target]]
"""One class for all images; or one per image, or several per image."""
PREDICTED: Final = -1


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


def resolve_targets(
    targets: Target | Iterable[Target], *, classes: int, names: tuple[str, ...] | None
) -> tuple[int, ...]:
    """Return the numbers of the classes asked of one image; see `resolve_target`."""
    listed = [targets] if is_single(targets) else list(targets)  # type: ignore[arg-type]
    if not listed:
        raise TargetError("got an empty list of targets for an image, expected at least one")
    return tuple(resolve_target(one, classes=classes, names=names) for one in listed)


def is_single(target: Targets) -> TypeGuard[Target]:
    """Return True for one target, False for several."""
    return isinstance(target, str) or not isinstance(target, Iterable)


def classes_asked(
    targets: Targets, *, classes: int, names: tuple[str, ...] | None
) -> Iterator[tuple[int, ...]]:
    """Yield the numbers of the classes asked of each image, without end if all are asked the same.

    Raises:
        TargetError: see `resolve_target`.
    """
    if is_single(targets):
        return repeat((resolve_target(targets, classes=classes, names=names),))
    return (resolve_targets(one, classes=classes, names=names) for one in targets)  # type: ignore[union-attr]


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
