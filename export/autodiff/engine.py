"""The backward pass: from the score back to a tensor, one rule per operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from klieg.errors import GradientError, UnsupportedOperatorError
from klieg.export.autodiff.emitter import Emitter, dims


@dataclass(frozen=True)
class Cotangent:
    """The gradient of the score with respect to one value of the graph.

    `value` has the shape of that value, but size 1 on `constant_axes`: there the gradient is the
    same everywhere, as behind a global average pool, and is enlarged only where somebody needs it.
    """

    value: ir.Value
    constant_axes: frozenset[int] = frozenset()
    hot: ir.Value | None = None
    """The class [batch] of which `value` is the one-hot code: a product with it is a row."""

    def expanded(self, op: Emitter, like: ir.Value) -> ir.Value:
        """Return the gradient in the full shape of `like`."""
        return op.Expand(self.value, op.shape(like)) if self.constant_axes else self.value


@dataclass(frozen=True)
class Pullback:
    """The arguments of a rule: a node, the gradients of its outputs, and one of its inputs.

    The rule returns the gradient of that input.
    """

    op: Emitter
    node: ir.Node
    index: int
    cotangents: tuple[Cotangent | None, ...]  # one per output, None where it is zero

    @property
    def x(self) -> ir.Value:
        """The input whose gradient is wanted."""
        return self.input(self.index)

    @property
    def dtype(self) -> ir.DataType:
        """The element type of `x`, float32 if it is unknown."""
        return self.x.dtype or ir.DataType.FLOAT

    @property
    def y(self) -> ir.Value:
        """The first output."""
        return self.node.outputs[0]

    @property
    def compact(self) -> Cotangent:
        """The gradient of the first output as it came, perhaps with constant axes."""
        cotangent = self.cotangents[0]
        if cotangent is None:
            raise self.unsupported("only its first output may lead to the score")
        return cotangent

    @property
    def g(self) -> ir.Value:
        """The gradient of the first output, full shape."""
        return self.compact.expanded(self.op, self.y)

    def input(self, index: int) -> ir.Value:
        """Return an input; UnsupportedOperatorError if it is left out."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            raise self.unsupported(f"input {index} is missing")
        return value

    def optional_input(self, index: int) -> ir.Value | None:
        """Return an input, None where it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def attribute(self, name: str, default: Any) -> Any:
        """Return an attribute as a Python value, or its default."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def times(self, factor: ir.Value, *, operator: str = "Mul") -> Cotangent:
        """Return gradient * factor (or / factor) for a factor of the graph that broadcasts to y."""
        sizes = dims(factor)
        missing = len(dims(self.y)) - len(sizes)
        constant = (a for a in self.compact.constant_axes if a < missing or sizes[a - missing] == 1)
        product = getattr(self.op, operator)(self.compact.value, factor)
        return Cotangent(product, frozenset(constant))

    def summed_to_input(self, cotangent: Cotangent) -> Cotangent:
        """Sum a gradient of y's shape over the axes along which the input was broadcast to y."""
        have, want = dims(self.y), dims(self.x)
        extra = len(have) - len(want)
        stretched = [
            axis + extra for axis, size in enumerate(want) if size == 1 and have[axis + extra] != 1
        ]
        if not extra and not stretched:
            return cotangent
        value = cotangent.expanded(self.op, self.y)
        if stretched:
            value = self.op.ReduceSum(value, stretched, keepdims=1)
        if extra:
            value = self.op.ReduceSum(value, list(range(extra)), keepdims=0)
        return Cotangent(value)

    def require(self, condition: bool, reason: str) -> None:
        """Raise UnsupportedOperatorError with a reason unless a condition holds."""
        if not condition:
            raise self.unsupported(reason)

    def unsupported(self, reason: str) -> UnsupportedOperatorError:
        """Return the error for a use of the operator that its rule does not support."""
        return UnsupportedOperatorError(
            f"cannot differentiate {describe(self.node)}: {reason}; choose a later layer, "
            "or export the model without this construct"
        )


Rule = Callable[[Pullback], "ir.Value | Cotangent | None"]
"""Returns the gradient of `at.x`, or None where it is zero by definition."""


def pull_back(
    op: Emitter,
    graph: ir.Graph,
    *,
    score: ir.Value,
    seed: Cotangent,
    wrt: ir.Value,
    rules: Mapping[str, Rule],
) -> Cotangent:
    """Emit the gradient of sum(seed * score) with respect to `wrt`.

    Args:
        op: Emitter of the graph.
        graph: Graph in normal form, nodes in topological order.
        score: Value to start from.
        seed: Gradient of the score, of its shape.
        wrt: Value to arrive at.
        rules: One rule per operator type; other tables give other methods (guided
            backpropagation, excitation backpropagation).

    Raises:
        GradientError: `wrt` does not lead to `score`, or only through piecewise constant operators.
        UnsupportedOperatorError: an operator on the path has no rule.
    """
    path, active = _path(graph, wrt, score)
    _check_rules(path, rules)
    contributions: dict[ir.Value, list[Cotangent]] = defaultdict(list)
    contributions[score].append(seed)
    for node in reversed(path):
        cotangents = tuple(_total(op, contributions[output]) for output in node.outputs)
        if not any(cotangents):
            continue
        for index, value in enumerate(node.inputs):
            if value in active:
                result = _apply(rules[node.op_type], Pullback(op, node, index, cotangents))
                if result is not None:
                    contributions[value].append(
                        result if isinstance(result, Cotangent) else Cotangent(result)
                    )
    total = _total(op, contributions[wrt])
    if total is None:
        raise GradientError(
            f"the gradient of {score.name!r} with respect to {wrt.name!r} is zero everywhere: "
            "every way between them passes an operator that is piecewise constant"
        )
    return total


def _apply(rule: Rule, at: Pullback) -> ir.Value | Cotangent | None:
    """Apply a rule; malformed operands or attributes, which onnx lets pass, become an own error."""
    try:
        return rule(at)
    except (TypeError, ValueError, IndexError) as error:
        raise at.unsupported(f"its operands or attributes are malformed: {error}") from error


def describe(node: ir.Node) -> str:
    """Name a node for an error message."""
    domain = f"{node.domain}::" if node.domain else ""
    output = node.outputs[0].name if node.outputs else "nothing"
    return f"{domain}{node.op_type} (node {node.name!r}, which computes {output!r})"


def _path(
    graph: ir.Graph, wrt: ir.Value, score: ir.Value
) -> tuple[list[ir.Node], frozenset[ir.Value]]:
    """Return the nodes between `wrt` and `score` and the values that carry a gradient."""
    reached = {wrt}
    candidates = []
    for node in graph:
        if any(value in reached for value in _operands(node)):
            outputs = [o for o in node.outputs if _carries_gradient(o) and o is not wrt]
            reached.update(outputs)
            if outputs:
                candidates.append(node)
    if score not in reached:
        raise GradientError(
            f"tensor {wrt.name!r} does not lead to {score.name!r}: "
            "choose a tensor that the score is computed from"
        )
    needed = {score}
    path = []
    for node in reversed(candidates):
        if any(output in needed for output in node.outputs):
            path.append(node)
            needed.update(value for value in _operands(node) if value in reached)
    if wrt is score:
        path = []
    return path[::-1], frozenset(needed & reached)


def _operands(node: ir.Node) -> Iterable[ir.Value]:
    """Return the inputs of a node and what its sub-graphs take from outside."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield from _operands(inner)


def _carries_gradient(value: ir.Value) -> bool:
    """Return whether a value is floating-point or quantised."""
    producer = value.producer()
    quantised = producer is not None and producer.op_type == "QuantizeLinear"
    return quantised or value.dtype is None or value.dtype.is_floating_point()


def operators_without_rule(
    graph: ir.Graph, *, score: ir.Value, wrt: ir.Value, rules: Mapping[str, Rule]
) -> list[ir.Node]:
    """Return the nodes between `wrt` and `score` that `pull_back` has no rule for.

    Raises:
        GradientError: `wrt` does not lead to `score`.
    """
    path, _ = _path(graph, wrt, score)
    return _without_rule(path, rules)


def _without_rule(path: Iterable[ir.Node], rules: Mapping[str, Rule]) -> list[ir.Node]:
    return [node for node in path if node.domain or node.op_type not in rules]


def _check_rules(path: Iterable[ir.Node], rules: Mapping[str, Rule]) -> None:
    missing = _without_rule(path, rules)
    if missing:
        named = "; ".join(describe(node) for node in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UnsupportedOperatorError(
            f"no gradient rule for {named}{more}; choose a later layer, "
            "or export the model with operators that have one"
        )


def _total(op: Emitter, cotangents: list[Cotangent]) -> Cotangent | None:
    """Return the sum of the gradients that reach one value along different paths."""
    if not cotangents:
        return None
    total = cotangents[0]
    for other in cotangents[1:]:
        total = Cotangent(
            op.Add(total.value, other.value), total.constant_axes & other.constant_axes
        )
    return total
