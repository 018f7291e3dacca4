"""The tables of outputs and methods agree with each other and with the export."""

from __future__ import annotations

from klieg.export.instrument.outputs import BACKWARD
from klieg.model_file.methods import METHODS
from klieg.model_file.outputs import ALWAYS, OUTPUTS


def test_every_output_per_class_has_its_backward_pass() -> None:
    assert set(BACKWARD) == {name for name, output in OUTPUTS.items() if output.rows == "target"}


def test_always_there_is_what_no_option_adds() -> None:
    assert {"logits", "activation", "gradient"} == ALWAYS


def test_the_option_of_an_output_adds_it() -> None:
    for name, output in OUTPUTS.items():
        if output.option is None or name == "mask":
            continue
        flag, method = output.option.split()
        assert flag == "--methods"
        assert name in METHODS[method].outputs


def test_methods_need_known_outputs_only() -> None:
    assert {name for method in METHODS.values() for name in method.outputs} <= set(OUTPUTS)
