"""Excitation backpropagation: marginal winning probabilities in place of gradients.

Zhang et al.: Top-down neural attention by excitation backprop, ECCV 2016. A linear operator hands
the probability P_i of an output neuron to its inputs in proportion to how much each excites it:

    P_j = a_j sum_i w+_ij P_i / sum_j' w+_ij' a_j'    with a = max(x, 0), w+ = max(w, 0),

0 where the denominator is 0 (equation 5). Biases do not take part. With z = w+ a this is
a times the gradient of sum_i z_i (P_i / z_i) with respect to a: so the operator is written once
more with a and w+, and its ordinary rule does the rest.

Contrastive excitation (section 3.4) shows what excites a class more than what inhibits it. At the
operator that makes the logits the winning probabilities of the class are compared with those of its
dual, the class with negated weights; their difference is then handed on as usual.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, cast

import onnx_ir as ir

from klieg.errors import GradientError
from klieg.export.autodiff.emitter import Emitter, dims, has_content, numpy_constant
from klieg.export.autodiff.engine import Cotangent, Pullback, Rule, pull_back
from klieg.export.autodiff.rules import gathering, padding, selection, shape
from klieg.export.autodiff.rules.tables import STANDARD_RULES

_SMALLEST: Final = 1e-20
"""Excitation below this counts as none: its reciprocal still fits float32 with room for sums."""

_GATES: Final = frozenset({"HardSigmoid", "Sigmoid"})


def weighted(at: Pullback, *, sign: int = 1) -> ir.Value | None:
    """y = w x + bias: P in proportion to w+ a; with sign -1 to (-w)+ a."""
    data = [i for i, value in enumerate(at.node.inputs) if value is not None and has_content(value)]
    if data != [at.index] or at.index > 1:
        raise at.unsupported("excitation needs weights that do not depend on the image")
    if at.compact.hot is not None:
        return _from_one_neuron(at, sign)
    weights = _rectified(at.op, at.input(1 - at.index), sign)
    return _redistributed(at, [at.x, weights] if at.index == 0 else [weights, at.x])


def average(at: Pullback) -> ir.Value | None:
    """y = mean or sum of x: P in proportion to a."""
    return _redistributed(at, [at.x, *at.node.inputs[1:]]) if at.index == 0 else None


def add(at: Pullback) -> ir.Value | Cotangent | None:
    """y = sum of branches: P in proportion to their positive activations; a bias takes no part."""
    branches = [v for v in at.node.inputs if v is not None and has_content(v)]
    if at.x not in branches:
        return None
    if len(branches) == 1:
        return at.summed_to_input(at.compact)
    return _redistributed(at, branches, index=branches.index(at.x))


def sub(at: Pullback) -> Cotangent:
    """y = x - bias: P."""
    if at.index != 0 or has_content(at.input(1)):
        raise at.unsupported("excitation has no rule for a difference of activations")
    return at.summed_to_input(at.compact)


def scale(at: Pullback) -> Cotangent | None:
    """y = x s or x / s: P where the scale s is positive, or a gate, which takes no part itself."""
    other = at.input(1 - at.index)
    if not has_content(other):
        if at.node.op_type == "Div" and at.index == 1:
            raise at.unsupported("excitation has no rule for a division by an activation")
        return at.summed_to_input(at.times(_where_positive(at.op, other)))
    if _is_gate(at.x):
        return None
    if at.node.op_type == "Mul" and _is_gate(other):
        return at.summed_to_input(at.compact)
    raise at.unsupported("excitation has no rule for a product of activations")


def batch_normalization(at: Pullback) -> Cotangent | None:
    """y = s x + bias per channel: P where s is positive."""
    at.require(
        not at.attribute("training_mode", 0),
        "it is in training mode; export the model in evaluation mode",
    )
    if at.index != 0:
        return None
    channel_shape = [-1] + [1] * (len(dims(at.x)) - 2)
    if numpy_constant(at.input(1)) is None:
        raise at.unsupported("its scale must be a constant")
    return at.times(at.op.derived("positive", at.input(1), shape=channel_shape))


def activation(at: Pullback) -> Cotangent | None:
    """y = an increasing function of x: P."""
    return at.compact if at.index == 0 else None


def _from_one_neuron(at: Pullback, sign: int) -> ir.Value:
    """Hand the probability 1 of one neuron per sample to its inputs: its row of weights is read."""
    op = at.op
    row = STANDARD_RULES[at.node.op_type](at)
    at.require(
        isinstance(row, ir.Value), "excitation needs weights that do not depend on the image"
    )
    excited = op.Mul(_rectified(op, at.x), op.Relu(row if sign > 0 else op.Neg(row)))
    return _normalised(op, excited, rank=len(dims(at.x)))


def _normalised(op: Emitter, share: ir.Value, *, rank: int) -> ir.Value:
    """Divide by the sum over all axes but the batch; zeros stay zeros."""
    total = op.ReduceSum(share, list(range(1, rank)), keepdims=1)
    return op.Div(share, op.Max(total, _SMALLEST))


def _redistributed(
    at: Pullback, operands: Sequence[ir.Value | None], *, index: int | None = None
) -> ir.Value:
    """Return a times the gradient of sum z (P / z), where z = the operator on rectified operands.

    Args:
        at: The arguments of the rule.
        operands: Operands of the operator without its bias, activations as they are.
        index: Which of them the result is for, None for `at.index`.
    """
    op, index = at.op, at.index if index is None else index
    rectified = [
        _rectified(op, value) if value is not None and has_content(value) else value
        for value in operands
    ]
    if tuple(rectified) == tuple(at.node.inputs):
        z, node = at.y, at.node
    else:
        attributes = {name: attribute.value for name, attribute in at.node.attributes.items()}
        z = getattr(op, at.node.op_type)(*rectified, **attributes)
        z.shape = at.y.shape
        node = cast(ir.Node, z.producer())  # emitted just now
    share = Cotangent(op.Where(op.Greater(z, _SMALLEST), op.Div(at.g, op.Max(z, _SMALLEST)), 0.0))
    pulled = STANDARD_RULES[at.node.op_type](Pullback(op, node, index, (share,)))
    if isinstance(pulled, Cotangent):
        pulled = pulled.value  # size 1 on constant axes: the product enlarges it
    return op.Mul(rectified[index], pulled)


def _rectified(op: Emitter, value: ir.Value, sign: int = 1) -> ir.Value:
    """Return max(sign x, 0) with x's shape; of a constant a constant."""
    if numpy_constant(value) is not None:
        return op.derived("rectified" if sign > 0 else "rectified_negative", value)
    producer = value.producer()
    if sign > 0 and producer is not None and producer.op_type == "Relu":
        return value
    result = op.Relu(value if sign > 0 else op.Neg(value))
    result.shape = value.shape
    return result


def _where_positive(op: Emitter, value: ir.Value) -> ir.Value:
    """Return 1 where a value without content is positive, else 0."""
    if numpy_constant(value) is not None:
        return op.derived("positive", value)
    dtype = int(value.dtype or ir.DataType.FLOAT)
    result = op.Cast(op.Greater(value, 0.0), to=dtype)
    result.shape = value.shape
    return result


def _is_gate(value: ir.Value) -> bool:
    """Return whether a value is the output of a sigmoid, perhaps reshaped."""
    node = value.producer()
    while node is not None and node.op_type in shape.RULES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in _GATES


WEIGHTED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_AVERAGING: Final = ("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum")
_WINNER_TAKES_ALL: Final = ("GlobalMaxPool", "MaxPool", "ReduceMax")
_ACTIVATIONS: Final = (
    "Celu",
    "Clip",
    "Elu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Mish",
    "PRelu",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Swish",
    "Tanh",
)

EXCITATION_RULES: Mapping[str, Rule] = MappingProxyType(
    gathering.RULES
    | padding.RULES
    | selection.RULES
    | shape.RULES
    | {name: STANDARD_RULES[name] for name in _WINNER_TAKES_ALL}
    | dict.fromkeys(_ACTIVATIONS, activation)
    | dict.fromkeys(_AVERAGING, average)
    | dict.fromkeys(WEIGHTED, weighted)
    | {
        "Add": add,
        "BatchNormalization": batch_normalization,
        "Div": scale,
        "Mul": scale,
        "Sub": sub,
        "Sum": add,
    }
)

_DUAL_RULES: Mapping[str, Rule] = MappingProxyType(
    {**EXCITATION_RULES, **dict.fromkeys(WEIGHTED, functools.partial(weighted, sign=-1))}
)


def contrast(
    op: Emitter, graph: ir.Graph, *, score: ir.Value, seed: Cotangent, wrt: ir.Value
) -> Cotangent:
    """Emit the winning probabilities of a class minus those of its dual, at `wrt`.

    Args:
        op: Emitter of the graph.
        graph: Graph in normal form, nodes in topological order.
        score: The logits [batch, classes].
        seed: One-hot code of the class.
        wrt: The layer.

    Raises:
        GradientError: no single weighted operator between the layer and the logits makes them.
        UnsupportedOperatorError: an operator has no excitation rule.
    """
    top = _input_of_the_last_weights(score, wrt)
    emit = functools.partial(pull_back, op, graph, score=score, seed=seed, wrt=top)
    winning, losing = (
        _normalised(op, emit(rules=rules).expanded(op, top), rank=len(dims(top)))
        for rules in (EXCITATION_RULES, _DUAL_RULES)
    )
    difference = Cotangent(op.Sub(winning, losing))
    return pull_back(op, graph, score=top, seed=difference, wrt=wrt, rules=EXCITATION_RULES)


def _input_of_the_last_weights(score: ir.Value, wrt: ir.Value) -> ir.Value:
    """Return the activation that the last weighted operator before the logits reads."""
    value = score
    while value is not wrt:
        node = value.producer()
        data = [] if node is None else [v for v in node.inputs if v is not None and has_content(v)]
        if node is None or len(data) != 1:
            break
        if node.op_type in WEIGHTED:
            return data[0]
        value = data[0]
    raise GradientError(
        f"found no single weighted operator between {wrt.name!r} and {score.name!r}: contrastive "
        "excitation compares a class with its negated weights; choose an earlier layer"
    )
