"""Contrastive excitation backpropagation: what excites a class more than what inhibits it.

Zhang et al.: Top-down neural attention by excitation backprop, ECCV 2016, section 3.4. At the
operator that makes the logits the winning probabilities of the class are compared with those of its
dual, the class with negated weights; their difference is then handed on as usual.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

import onnx_ir as ir

from klieg.errors import GradientError
from klieg.export.autodiff.emitter import Emitter, dims
from klieg.export.autodiff.engine import Cotangent, Rule, pull_back
from klieg.export.autodiff.provenance import has_content
from klieg.export.autodiff.rules.excitation import (
    EXCITATION_RULES,
    WEIGHTED,
    normalised,
    weighted,
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
    walk = functools.partial(pull_back, op, graph, score=score, seed=seed, wrt=top)
    winning, losing = (
        normalised(op, walk(rules=rules).expanded(op, top), rank=len(dims(top)))
        for rules in (EXCITATION_RULES, _DUAL_RULES)
    )
    difference = Cotangent(op.Sub(winning, losing))
    return pull_back(op, graph, score=top, seed=difference, wrt=wrt, rules=EXCITATION_RULES)


def _input_of_the_last_weights(score: ir.Value, wrt: ir.Value) -> ir.Value:
    """Return what enters the operator that makes the logits."""
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
