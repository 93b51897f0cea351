"""Every public function, with every argument of a wrong type in turn: an error of ours in two lines, never Python's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mi_kernels
from mi_kernels import MergeRecipe, MIKernelsError, Recipe, Rule
from mi_kernels.live import InterpolatedModel, attach
from mi_kernels.system.arguments import checks_names

from ..support.checks import World


def one(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def yielded() -> Iterator[Any]:
    yield object()


def refusal(call: Callable[[], Any]) -> MIKernelsError | None:
    try:
        call()
    except MIKernelsError as error:
        return error
    return None


class Nothing:
    def __repr__(self) -> str:
        return "Nothing()"


# By what they are; functions, because a generator is used up.
WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "a number": lambda: 7.5,
    "text": lambda: "0.5x",
    "bytes": lambda: b"0.5",
    "an empty list": list,
    "a list of objects": lambda: [Nothing(), Nothing()],
    "a dict": lambda: {"a": Nothing()},
    "a set": lambda: {1, "b"},
    "a generator": yielded,
    "an object": Nothing,
    "a class": lambda: Nothing,
    "a function": lambda: yielded,
    "an integer array": lambda: np.arange(3),
    "a sparse tensor": lambda: torch.eye(2).to_sparse(),
    "a CSR tensor": lambda: torch.eye(2).to_sparse_csr(),
    "a quantised tensor": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "a meta tensor": lambda: torch.ones(2, device="meta"),
    "a nested tensor": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "a jagged tensor": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    "a complex tensor": lambda: torch.ones(2, dtype=torch.complex64),
}


def calls(world: World) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Functions with right arguments by name. Outputs are new at each call."""
    pair = {"instruct": str(world.instruct), "thinking": str(world.thinking)}
    quiet = {"progress": False, "threads": 1}
    linear = torch.nn.Linear(2, 2)
    recipe = {"method": "linear", "models": list(pair.values())}
    return {
        "lerp": (mi_kernels.lerp, {"a": one(4), "b": one(4), "lam": 0.5, "out": None, "backend": None, "threads": 1}),
        "lerp of torch": (mi_kernels.lerp, {"a": torch.ones(2), "b": torch.ones(2), "lam": 0.5, "out": torch.ones(2)}),
        "multi_lerp": (mi_kernels.multi_lerp, {"a": [one(4)], "b": [one(4)], "lam": [0.5], "outs": [one(4)]}),
        "prepare": (mi_kernels.prepare, {"a": [one(4)], "b": [one(4)], "outs": [one(4)], "threads": 1}),
        "Prepared.lerp": (mi_kernels.prepare([one(4)], [one(4)]).lerp, {"lam": 0.5}),
        "combine": (
            mi_kernels.combine,
            {"tensors": [one(4)], "method": "ties", "base": one(4), "out": one(4), "density": 0.5, "weight": [1]},
        ),
        "lerp_checkpoint": (
            mi_kernels.lerp_checkpoint,
            {**pair, "out": str(world.out), "lam": 0.5, "layers": None, "modules": None, "rules": [], **quiet}
            | {"extrapolate": False, "max_shard_size": None, "max_memory": "1MB", "device": "cpu", "backend": None}
            | {"dtype": None, "copy_from": "thinking", "overwrite": True, "strict": False, "io": "auto"},
        ),
        "sweep_checkpoint": (
            mi_kernels.sweep_checkpoint,
            {**pair, "out": f"{world.out}-{{lam}}", "lams": [0.5], "rules": [], "overwrite": True, **quiet},
        ),
        "merge_checkpoint": (
            mi_kernels.merge_checkpoint,
            {"recipe": recipe, "out": str(world.out), "overwrite": True, **quiet},
        ),
        "MergeRecipe": (
            lambda **given: mi_kernels.merge_checkpoint(MergeRecipe(**given), world.out, overwrite=True, **quiet),
            {"method": "linear", "models": tuple(pair.values()), "settings": {"weight": 1}, "dtype": None},
        ),
        "Recipe": (
            lambda **given: Recipe(**given).weights(["model.layers.0.mlp.up_proj.weight"]),
            {"lam": 0.5, "layers": None, "modules": None, "rules": (), "extrapolate": False},
        ),
        "Rule": (
            lambda **given: Recipe(0.5, rules=[Rule(**given)]).weights(["model.layers.0.mlp.up_proj.weight"]),
            {"lam": 0.5, "layers": None, "modules": None, "pattern": None},
        ),
        "attach": (
            lambda **given: attach(**{"model": torch.nn.Linear(2, 2), **given}).detach(),
            {"model": torch.nn.Linear(2, 2), "other": linear, "lam": 0.5, "resident": True, "base": None},
        ),
        "InterpolatedModel": (InterpolatedModel, {"model_b": linear, "lam": 0.5, "model_a": torch.nn.Linear(2, 2)}),
        "open_checkpoint": (mi_kernels.open_checkpoint, {"source": str(world.instruct)}),
        "similarity": (mi_kernels.similarity, {**pair, **quiet}),
        "push": (mi_kernels.push, {"folder": str(world.root), "repo": "org/name", "private": False}),
        "verify_checkpoint": (
            mi_kernels.verify_checkpoint,
            {"out": str(world.instruct), "recompute": None, **quiet},
        ),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("wrong"))


def arguments() -> list[tuple[str, str]]:
    here: Any = SimpleNamespace(root="x", instruct="x", thinking="x", out="x")
    return [(name, argument) for name, (_, given) in calls(here).items() for argument in given]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("function", "argument"), arguments())
def test_a_wrong_argument_is_an_error_of_ours(
    world: World, function: str, argument: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some values are right for some arguments (None, a class as progress): those calls may succeed."""
    monkeypatch.chdir(world.root)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    call, given = calls(world)[function]
    if argument == "progress" and callable(WRONG[wrong]()):
        pytest.skip("any function may show the progress, and its errors are its own")
    error = refusal(lambda: call(**{**given, argument: WRONG[wrong]()}))
    if error is not None:
        assert len(str(error).splitlines()) == 2


@pytest.mark.parametrize("function", ["lerp_checkpoint", "sweep_checkpoint", "merge_checkpoint", "attach"])
def test_names_that_do_not_fit(world: World, function: str) -> None:
    call, given = calls(world)[function]
    call = attach if function == "attach" else call
    with pytest.raises(mi_kernels.DTypeError, match=f"{function} has no argument treads"):
        call(**given, treads=2)
    with pytest.raises(mi_kernels.DTypeError, match=r"(is|are) missing\nIts arguments are"):
        call(next(iter(given.values())))
    first = torch.nn.Linear(2, 2) if function == "attach" else 0
    with pytest.raises(mi_kernels.DTypeError, match="positional arguments"):
        call(first, *range(20))


def test_lam_of_a_sweep_is_called_lams(world: World) -> None:
    with pytest.raises(mi_kernels.DTypeError, match=r"no argument lam\nDid you mean lams\?"):
        mi_kernels.sweep_checkpoint(world.instruct, world.thinking, "x-{lam}", lam=[0.2])  # type: ignore[call-arg]
    with pytest.raises(mi_kernels.ArgumentError, match=r"one value and not a list\nPass lams=\[0.2\]"):
        mi_kernels.sweep_checkpoint(world.instruct, world.thinking, "x-{lam}", 0.2)  # type: ignore[arg-type]


@pytest.mark.parametrize("lam", [[0.2, 0.8], np.array([0.2, 0.8]), torch.tensor([0.2, 0.8]), (0.2,)])
def test_several_lam_for_one_merge(world: World, lam: Any) -> None:
    with pytest.raises(mi_kernels.ArgumentError, match="not one number"):
        mi_kernels.lerp_checkpoint(world.instruct, world.thinking, world.out, lam)
    with pytest.raises(mi_kernels.ArgumentError, match=r"not one number\nGive one number. For several pairs"):
        mi_kernels.lerp(one(2), one(2), lam)


@pytest.mark.parametrize("lam", ["0.5", True, np.True_, torch.tensor(True), b"1"])
def test_lam_that_is_text_or_a_truth(world: World, lam: Any) -> None:
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    knob = attach(a, b)
    prepared = mi_kernels.prepare([one(2)], [one(2)])
    for call in (
        lambda: mi_kernels.lerp(one(2), one(2), lam),
        lambda: mi_kernels.lerp(torch.ones(2), torch.ones(2), lam),
        lambda: mi_kernels.multi_lerp([one(2)], [one(2)], lam),
        lambda: mi_kernels.multi_lerp([one(2)], [one(2)], [lam]),
        lambda: prepared.lerp(lam),
        lambda: prepared.lerp([lam]),
        lambda: knob.set_lam(lam),
        lambda: mi_kernels.lerp_checkpoint(world.instruct, world.thinking, world.out, lam),
        lambda: mi_kernels.sweep_checkpoint(world.instruct, world.thinking, "x-{lam}", [lam]),
        lambda: Recipe(lam),
        lambda: Rule(lam),
        lambda: mi_kernels.combine([one(2), one(2)], "slerp", lam=lam),
    ):
        with pytest.raises(mi_kernels.ArgumentError, match=r"lam is .*not a number"):
            call()
    knob.detach()


def test_numbers_of_numpy_and_torch_are_numbers(world: World) -> None:
    for lam in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5)):
        assert mi_kernels.lerp(one(2), 3 * one(2), lam).tolist() == [2, 2]
    assert mi_kernels.multi_lerp([one(1)] * 2, [3 * one(1)] * 2, np.array([0, 0.5]))[1].tolist() == [2]


def test_iterables_but_no_dicts(world: World) -> None:
    a, b = [one(2), one(3)], [3 * one(2), 3 * one(3)]
    expected = [x.tolist() for x in mi_kernels.multi_lerp(a, b, 0.5)]
    assert [x.tolist() for x in mi_kernels.multi_lerp((x for x in a), {"b": b}["b"], 0.5)] == expected
    named = dict(zip("xy", a)), dict(zip("xy", b))
    assert [x.tolist() for x in mi_kernels.multi_lerp(named[0].values(), named[1].values(), 0.5)] == expected  # type: ignore[arg-type]
    for function in (mi_kernels.multi_lerp, lambda a, b, lam: mi_kernels.prepare(a, b)):
        with pytest.raises(mi_kernels.DTypeError, match=r"a is a dict.*\nPass lists in one order"):
            function(*named, 0.5)  # type: ignore[arg-type]
    with pytest.raises(mi_kernels.DTypeError, match=r"tensors is a dict"):
        mi_kernels.combine(named[0], "linear")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "words"), [(5, "'5GB'"), (True, "size"), ("5", "5GB"), (2.5, "size"), (-1, "positive")]
)
@pytest.mark.parametrize("option", ["max_shard_size", "max_memory"])
def test_sizes(world: World, option: str, size: Any, words: str) -> None:
    with pytest.raises(mi_kernels.ArgumentError, match=f"{option} .*") as error:
        mi_kernels.lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, **{option: size})
    assert words in str(error.value)


def test_sizes_as_the_command_line_writes_them(world: World, tmp_path: Path) -> None:
    report = mi_kernels.lerp_checkpoint(
        world.instruct, world.thinking, tmp_path / "out", 0.5, max_shard_size="5GB", max_memory="64MiB", progress=False
    )
    assert report.shards == 1
    assert mi_kernels.verify_checkpoint(tmp_path / "out", [], progress=False).right


def test_a_folder_is_no_loaded_model(world: World) -> None:
    with pytest.raises(mi_kernels.ArgumentError, match=r"loaded\nLoad it first: AutoModelForCausalLM"):
        attach(str(world.instruct), str(world.thinking))  # type: ignore[arg-type]
    for call in (lambda: attach(str(world.instruct)), lambda: attach(str(world.instruct), lamb=0.5)):  # type: ignore[call-arg, arg-type]
        with pytest.raises(mi_kernels.ArgumentError, match=r"loaded\nLoad it first"):
            call()
    with pytest.raises(mi_kernels.DTypeError, match="attach: other is missing"):
        attach(torch.nn.Linear(2, 2))  # type: ignore[call-arg]


CONSTRUCTORS = {"Recipe": mi_kernels.Recipe, "Rule": mi_kernels.Rule, "MergeRecipe": mi_kernels.MergeRecipe}
TYPOS = [
    ("lerp", "lamb", "lam"),
    ("lerp of torch", "alpha", "lam"),
    ("multi_lerp", "weight", "lam"),
    ("prepare", "thread", "threads"),
    ("Prepared.lerp", "lerp_weight", "lam"),
    ("combine", "thraeds", None),  # a parameter of the method, for all that the function knows
    ("lerp_checkpoint", "alpha", "lam"),
    ("lerp_checkpoint", "output", "out"),
    ("sweep_checkpoint", "t", "lams"),
    ("merge_checkpoint", "force", "overwrite"),
    ("Recipe", "module", "modules"),
    ("Rule", "regex", None),
    ("MergeRecipe", "model", "models"),
    ("InterpolatedModel", "model", "model_a"),
    ("open_checkpoint", "sourec", "source"),
    ("similarity", "thinkng", "thinking"),
    ("push", "folders", "folder"),
    ("verify_checkpoint", "recompte", "recompute"),
]


@pytest.mark.parametrize(("function", "typo", "meant"), TYPOS)
def test_a_misspelt_argument_of_any_function(world: World, function: str, typo: str, meant: str | None) -> None:
    call, given = calls(world)[function]
    call = CONSTRUCTORS.get(function, call)
    given = {key: value for key, value in given.items() if key not in (typo, meant)}
    with pytest.raises(MIKernelsError, match=typo) as error:
        call(**given, **{typo: next(iter(given.values()), 0.5)})
    assert len(str(error.value).splitlines()) == 2
    assert isinstance(error.value, TypeError) or function == "combine"
    if meant is not None:
        assert error.value.remedy.startswith(f"Did you mean {meant}?")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(mi_kernels.DTypeError, match=r"^multi_lerp: lam is missing\n"):
        mi_kernels.multi_lerp([one(2)], [one(2)])  # type: ignore[call-arg]
    with pytest.raises(mi_kernels.DTypeError, match=r"^lerp: b and lam are missing\n"):
        mi_kernels.lerp(one(2))  # type: ignore[call-arg]
    with pytest.raises(mi_kernels.DTypeError, match=r"^combine has no argument metod\nDid you mean method"):
        mi_kernels.combine([one(2), one(2)], metod="average")  # type: ignore[call-arg]
    with pytest.raises(mi_kernels.DTypeError, match=r"^Prepared.lerp takes 1 positional argument \(lam\)"):
        mi_kernels.prepare([one(2)], [one(2)]).lerp(0.5, True)  # type: ignore[misc]


def test_errors_of_the_code_inside_stay_what_they_are() -> None:
    """Only a call that does not fit the signature is ours to explain."""

    def progress(done: int, total: int) -> None:
        raise TypeError("progress() missing 1 required positional argument: 'other'")

    @checks_names
    def calls_it(count: int) -> None:
        progress(count, count)

    with pytest.raises(TypeError, match="progress\\(\\) missing 1 required") as error:
        calls_it(2)
    assert not isinstance(error.value, MIKernelsError)


@pytest.mark.parametrize(
    ("module", "typo", "meant"),
    [("mi_kernels", "lerp_checkpont", "lerp_checkpoint"), ("mi_kernels", "Receipe", "Recipe"),
     ("mi_kernels.live", "atach", "attach")],
)  # fmt: skip
def test_a_misspelt_name_of_a_module(module: str, typo: str, meant: str) -> None:
    found = import_module(module)
    with pytest.raises(AttributeError, match=f"^module '{module}' has no attribute '{typo}'. Did you mean {meant}\\?$"):
        getattr(found, typo)
    with pytest.raises(ImportError, match=f"^cannot import name '{typo}' from '{module}'. Did you mean {meant}\\?$"):
        exec(f"from {module} import {typo}", {})
    assert meant in dir(found)
    assert typo not in dir(found)
    assert not hasattr(found, typo)
    assert not hasattr(found, "__wrapped__")
