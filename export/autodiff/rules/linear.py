"""Matrix products."""

from __future__ import annotations

import string

import onnx_ir as ir

from klieg.export.autodiff.emitter import dims
from klieg.export.autodiff.engine import Cotangent, Pullback, Rule


def gemm(at: Pullback) -> ir.Value | Cotangent:
    """Y = alpha A' B' + beta C with A' = A or A^T, B' = B or B^T.

    A' gets alpha g B'^T, B' gets alpha A'^T g, C gets beta g.
    """
    alpha, beta = float(at.attribute("alpha", 1.0)), float(at.attribute("beta", 1.0))
    a_turned, b_turned = int(at.attribute("transA", 0)), int(at.attribute("transB", 0))
    op = at.op
    if at.index == 0 and at.compact.hot is not None and not a_turned:
        row = _row(at, at.input(1), at.compact.hot, turned=bool(b_turned))
        return row if alpha == 1 else op.Mul(row, alpha)
    g = at.g
    if at.index == 2:
        return at.summed_to_input(Cotangent(g if beta == 1 else op.Mul(g, beta)))
    if at.index == 0:
        b = at.input(1)
        if a_turned:
            return op.Gemm(b, g, alpha=alpha, transA=b_turned, transB=1)
        return op.Gemm(g, b, alpha=alpha, transA=0, transB=1 - b_turned)
    a = at.input(0)
    if b_turned:
        return op.Gemm(g, a, alpha=alpha, transA=1, transB=a_turned)
    return op.Gemm(a, g, alpha=alpha, transA=1 - a_turned, transB=0)


def matmul(at: Pullback) -> ir.Value:
    """Y = A B over broadcast leading axes: A gets g B^T, B gets A^T g.

    A vector counts as a matrix of one row (A) or one column (B), an axis that Y leaves out.
    """
    op = at.op
    (a, a_rank), (b, b_rank) = _as_matrix(at, 0), _as_matrix(at, 1)
    if at.index == 0 and at.compact.hot is not None and a_rank == b_rank == 2:
        return _row(at, b, at.compact.hot, turned=False)
    g = at.g
    left_out = [end for end, i in ((-1, 1), (-2, 0)) if len(dims(at.input(i))) == 1]
    for end in left_out:
        g = op.Unsqueeze(g, [end])
    rank = len(dims(at.y)) + len(left_out)
    if at.index == 0:
        value, own_rank = op.MatMul(g, _turned(at, b, b_rank)), a_rank
    else:
        value, own_rank = op.MatMul(_turned(at, a, a_rank), g), b_rank
    value = _sum_leading(at, value, rank, own_rank)
    return op.reshape(value, at.x) if len(dims(at.x)) == 1 else value


def einsum(at: Pullback) -> ir.Value:
    """y = sum of products of entries as an equation says: the same with g in x's place.

    For "ij,jk->ik" the first operand gets "ik,jk->ij". Axes that only x has are summed over in y,
    so that their gradient is repeated along them.
    """
    op = at.op
    terms, result = _einsum_terms(at)
    own, others = terms[at.index], [t for i, t in enumerate(terms) if i != at.index]
    operands = [at.input(i) for i in range(len(terms)) if i != at.index]
    at.require(len(set(own)) == len(own), "an einsum that takes a diagonal has no rule")
    known = set(result).union(*others)
    reached = [label for label in own if label in known]
    equation = ",".join("".join(term) for term in (result, *others)) + "->" + "".join(reached)
    value = op.Einsum(at.g, *operands, equation=equation)
    alone = [axis for axis, label in enumerate(own) if label not in known]
    if alone:
        value = op.Expand(op.Unsqueeze(value, alone), op.shape(at.x))
    return value


def _einsum_terms(at: Pullback) -> tuple[list[list[str]], list[str]]:
    """Return the labels of every operand and of the result, "..." written out as letters."""
    equation = str(at.attribute("equation", "")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    names = left.split(",")
    ranks = [len(dims(at.input(i))) for i in range(len(names))]
    free = [c for c in string.ascii_lowercase if c not in equation]  # TensorRT takes no others
    dots = [
        rank - len(n.replace("...", "")) if "..." in n else 0
        for n, rank in zip(names, ranks, strict=True)
    ]
    if any(count != max(dots) and "..." in n for n, count in zip(names, dots, strict=True)):
        raise at.unsupported("operands whose '...' stand for different numbers of axes")
    hidden = "".join(free[: max(dots)])
    terms = [list(name.replace("...", hidden)) for name in names]
    if not arrow:
        once = [c for c in sorted(set(left) - set(",.")) if left.count(c) == 1]
        return terms, [*hidden, *once]
    return terms, list(right.replace("...", hidden))


def _row(at: Pullback, weight: ir.Value, hot: ir.Value, *, turned: bool) -> ir.Value:
    """Return g B^T for one-hot g: one row of B^T, read in place of multiplied with all others."""
    if turned:
        return at.op.Gather(weight, hot, axis=0)
    return at.op.Transpose(at.op.Gather(weight, hot, axis=1), perm=[1, 0])


def _as_matrix(at: Pullback, index: int) -> tuple[ir.Value, int]:
    """Return an operand with at least two axes, and their number."""
    value = at.input(index)
    rank = len(dims(value))
    return (value, rank) if rank > 1 else (at.op.Unsqueeze(value, [index]), 2)


def _turned(at: Pullback, matrix: ir.Value, rank: int) -> ir.Value:
    return at.op.Transpose(matrix, perm=[*range(rank - 2), rank - 1, rank - 2])


def _sum_leading(at: Pullback, value: ir.Value, rank: int, own_rank: int) -> ir.Value:
    """Sum a gradient with the leading axes of y over those along which the input was broadcast."""
    have, want = dims(at.y)[: rank - 2], dims(at.x)[: own_rank - 2]
    extra = rank - own_rank
    stretched = [extra + i for i, size in enumerate(want) if size == 1 and have[extra + i] != 1]
    if stretched:
        value = at.op.ReduceSum(value, stretched, keepdims=1)
    return at.op.ReduceSum(value, list(range(extra)), keepdims=0) if extra else value


RULES: dict[str, Rule] = {"Einsum": einsum, "Gemm": gemm, "MatMul": matmul}
