"""The published recipes by name. Whatever is not given here has the default of its option.

CASM: Zolna et al., the released code's table of `--reproduce`; lambda is the weight of the size
term. Simplified: Phang et al., the released fix.json and ca.json with taps 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

_CASM_OPTIMISER: Final = {"epochs": 60, "batch_size": 128, "share_per_epoch": 0.2}
_CASM_MASKER: Final = {"decoder": "casm", "raw_first": True}
_NEVER: Final = 10_000_000


def _casm(lambda_: float, **critics: Any) -> dict[str, Any]:
    return {
        "masker": _CASM_MASKER,
        "objective": {"out_entropy": 1.0, "size_out": lambda_},
        "critics": {"taps": "trained", **critics},
        "optimiser": _CASM_OPTIMISER,
    }


def _simplified(lambda_out: float, **critics: Any) -> dict[str, Any]:
    return {
        "masker": {"decoder": "simplified"},
        "objective": {
            "out_entropy": 1.0,
            "in_classification": 1.0,
            "size_out": lambda_out,
            "size_in": 1.0,
            "variation": 0.001,
        },
        "critics": critics,
        "optimiser": {"epochs": 60, "batch_size": 72, "share_per_epoch": 0.2},
    }


PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "casm-f": _casm(2.5, regime="fixed"),
        "casm-l": _casm(14, regime="agnostic", historic=0),
        "casm-fl": _casm(7.5, regime="agnostic", historic=0.5, snapshot_every=_NEVER),
        "casm-l100": _casm(10, regime="agnostic", historic=0.5, snapshot_every=100),
        "casm-l1000": _casm(10, regime="agnostic", historic=0.5, snapshot_every=1000),
        "simplified-fix": _simplified(10, regime="fixed"),
        "simplified-ca": _simplified(
            15, regime="agnostic", taps="trained", historic=0.5, snapshot_every=100, use_pool=False
        ),
    }
)
"""In the order of the papers; "casm-l100" is CASM as it is usually meant."""
