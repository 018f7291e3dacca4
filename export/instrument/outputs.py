"""The outputs of an explainer file besides logits and activation: one backward pass each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import onnx_ir as ir

from klieg.errors import GradientError
from klieg.export.autodiff.emitter import Emitter
from klieg.export.autodiff.engine import Cotangent, Rule, pull_back
from klieg.export.autodiff.rules.excitation import EXCITATION_RULES, contrast
from klieg.export.autodiff.rules.tables import (
    DECONVNET_RULES,
    GUIDED_RULES,
    STANDARD_RULES,
)


@dataclass(frozen=True)
class BackwardPass:
    """A backward pass from the logits to the layer or the image, by any rule table.

    Nodes that several outputs have in common are emitted once.
    """

    op: Emitter
    graph: ir.Graph
    logits: ir.Value
    seed: Cotangent
    layer: ir.Value
    image: ir.Value

    def __call__(self, name: str) -> Cotangent:
        """Emit the output called `name`."""
        try:
            return BACKWARD[name](self)
        except GradientError as error:
            raise type(error)(f"output {name!r}: {error}") from error

    def to_layer(self, rules: Mapping[str, Rule]) -> Cotangent:
        """Emit the result of a rule table at the layer."""
        return pull_back(
            self.op, self.graph, score=self.logits, seed=self.seed, wrt=self.layer, rules=rules
        )

    def to_image(self, rules: Mapping[str, Rule]) -> Cotangent:
        """Emit the result of a rule table at the image, in its full shape."""
        found = pull_back(
            self.op, self.graph, score=self.logits, seed=self.seed, wrt=self.image, rules=rules
        )
        return Cotangent(found.expanded(self.op, self.image))


BACKWARD: Final[Mapping[str, Callable[[BackwardPass], Cotangent]]] = MappingProxyType(
    {
        "gradient": lambda backward: backward.to_layer(STANDARD_RULES),
        "image_gradient": lambda backward: backward.to_image(STANDARD_RULES),
        "guided_gradient": lambda backward: backward.to_image(GUIDED_RULES),
        "deconvnet_gradient": lambda backward: backward.to_image(DECONVNET_RULES),
        "excitation": lambda backward: backward.to_layer(EXCITATION_RULES),
        "contrast": lambda backward: contrast(
            backward.op,
            backward.graph,
            score=backward.logits,
            seed=backward.seed,
            wrt=backward.layer,
        ),
    }
)
