"""`Options` is the only list of options: signatures, the command line and type checkers agree with it."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest

import mi_kernels
from mi_kernels import ArgumentError
from mi_kernels.cli.program import build_parser
from mi_kernels.merge.options import FLAGS, MergeOptions, Options


def test_type_checkers_see_the_same_options() -> None:
    assert {f.name: f.type for f in fields(Options)} == {
        name: annotation.__forward_arg__ for name, annotation in MergeOptions.__annotations__.items()
    }


@pytest.mark.parametrize(
    "function", [mi_kernels.lerp_checkpoint, mi_kernels.sweep_checkpoint, mi_kernels.merge_checkpoint]
)
def test_help_shows_every_option_and_its_default(function: Any) -> None:
    parameters = inspect.signature(function).parameters
    for option in fields(Options):
        assert parameters[option.name].default == option.default
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="thread"):
        mi_kernels.lerp_checkpoint("a", "b", "out", 0.5, thread=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="thread"):
        mi_kernels.merge_checkpoint({"method": "average", "models": ["a", "b"]}, "out", thread=2)  # type: ignore[call-arg]


@pytest.mark.parametrize("command", ["lerp", "sweep", "merge"])
def test_every_option_is_a_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([command, "--help"])
    shown = capsys.readouterr().out
    for option in FLAGS:
        assert ("--" + option.name.replace("_", "-") in shown) == (option.name != "sigma" or command != "merge")


def test_every_option_is_documented() -> None:
    assert Options.__doc__ is not None
    for option in fields(Options):
        assert f"        {option.name}: " in Options.__doc__


@pytest.mark.parametrize("number", ["1", "2", "16"])
def test_copy_from_is_the_number_of_a_model(number: str) -> None:
    options = Options(copy_from=number)
    options.refuse_copy_from(int(number), False, "the recipe")
    with pytest.raises(ArgumentError, match=f"copy_from is '{number}', but the recipe has {int(number) - 1} models"):
        options.refuse_copy_from(int(number) - 1, True, "the recipe")


@pytest.mark.parametrize("number", ["0", "-1", "01", "1.0", "100", "two", "\u0661", 2])
def test_copy_from_that_is_no_number_of_a_model(number: Any) -> None:
    with pytest.raises(ArgumentError, match=r"copy_from .* is unknown"):
        Options(copy_from=number)
