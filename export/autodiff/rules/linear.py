"""Matrix products."""

from __future__ import annotations

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
    """Y = A B over broadcast leading axes: A gets g B^T, B gets A^T g."""
    a, b = at.input(0), at.input(1)
    if min(len(dims(a)), len(dims(b))) < 2:
        raise at.unsupported("a product with a vector (rank 1) has no rule")
    if at.index == 0 and at.compact.hot is not None and len(dims(b)) == 2:
        return _row(at, b, at.compact.hot, turned=False)
    if at.index == 0:
        return _sum_leading(at, at.op.MatMul(at.g, _turned(at, b)))
    return _sum_leading(at, at.op.MatMul(_turned(at, a), at.g))


def _row(at: Pullback, weight: ir.Value, hot: ir.Value, *, turned: bool) -> ir.Value:
    """Return g B^T for one-hot g: one row of B^T, read in place of multiplied with all others."""
    columns_are_classes = weight if turned else at.op.Transpose(weight, perm=[1, 0])
    return at.op.Gather(columns_are_classes, hot, axis=0)


def _turned(at: Pullback, matrix: ir.Value) -> ir.Value:
    rank = len(dims(matrix))
    return at.op.Transpose(matrix, perm=[*range(rank - 2), rank - 1, rank - 2])


def _sum_leading(at: Pullback, value: ir.Value) -> ir.Value:
    """Sum over the leading axes along which the input was broadcast."""
    have, want = dims(at.y)[:-2], dims(at.x)[:-2]
    extra = len(have) - len(want)
    stretched = [extra + i for i, size in enumerate(want) if size == 1 and have[extra + i] != 1]
    if stretched:
        value = at.op.ReduceSum(value, stretched, keepdims=1)
    return at.op.ReduceSum(value, list(range(extra)), keepdims=0) if extra else value


RULES: dict[str, Rule] = {"Gemm": gemm, "MatMul": matmul}
