"""Rules of products and of norms, against finite differences in float64."""

from __future__ import annotations

import pytest

from helpers.gradient_check import check, numbers


@pytest.mark.parametrize("wrt", ["a", "b"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3,), (3,)),
        ((3,), (3, 2)),
        ((2, 3), (3,)),
        ((3,), (4, 3, 2)),
        ((4, 2, 3), (3,)),
        ((2, 1, 2, 3), (4, 3, 2)),
        ((2, 3), (5, 1, 3, 2)),
    ],
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...], wrt: str) -> None:
    check("MatMul", {"a": numbers(*a), "b": numbers(*b, seed=1)}, wrt)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bhid, bhjd -> bhij", [(2, 2, 3, 2), (2, 2, 4, 2)]),
        ("ij,jk", [(2, 3), (3, 2)]),
        ("...i,ij->...j", [(2, 3, 2), (2, 4)]),
        ("ij->i", [(2, 3)]),
        ("bij,kj->bk", [(2, 3, 2), (4, 2)]),
        ("i,j,k->ijk", [(2,), (3,), (2,)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    names = "abc"[: len(shapes)]
    inputs = {n: numbers(*shape, seed=i) for i, (n, shape) in enumerate(zip(names, shapes))}  # noqa: B905
    for wrt in names:
        check("Einsum", inputs, wrt, equation=equation)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [-1, 1])
def test_lp_normalization(p: int, axis: int) -> None:
    check("LpNormalization", {"x": numbers(2, 3, 4)}, "x", p=p, axis=axis)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_lrn(size: int) -> None:
    check("LRN", {"x": numbers(2, 4, 2, 3)}, "x", size=size, alpha=0.3, beta=0.6, bias=1.5)


@pytest.mark.parametrize(
    "name", ["Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Atanh", "Acosh"]
)
def test_trigonometry(name: str) -> None:
    x = numbers(2, 3) * (0.4 if name != "Acosh" else -0.2) + (2 if name == "Acosh" else 0)
    check(name, {"x": x}, "x")
