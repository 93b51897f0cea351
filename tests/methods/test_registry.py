"""What methods declare is complete, and nothing else lists them: recipes, mergekit and the documentation follow."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from typing import Any

import numpy as np
import pytest
import yaml

import mi_kernels
from mi_kernels import ArgumentError
from mi_kernels._cpu import Formula
from mi_kernels.backends.reference import methods as reference
from mi_kernels.backends.spans import Operand
from mi_kernels.checkpoint.names import classify
from mi_kernels.dtypes import CODES
from mi_kernels.methods.method import Method, Tensor
from mi_kernels.methods.registry import METHODS, PARAMETERS
from mi_kernels.recipe.mergekit import from_mergekit
from mi_kernels.recipe.models import MergeRecipe, from_dict

from ..support import ROOT
from ..support.methods import Case, drawn, drawn_cases, recipe

by_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
NAME = "model.layers.0.mlp.up_proj.weight"


@by_method
def test_a_module_is_named_as_its_method(method: Method) -> None:
    assert method.formula.__module__ == f"mi_kernels.methods.{method.name}"


@by_method
def test_the_formula_takes_the_parameters_that_are_declared(method: Method) -> None:
    assert [*inspect.signature(method.formula).parameters][1:] == [p.name for p in method.parameters]


@by_method
def test_the_reference_takes_the_same(method: Method) -> None:
    function = getattr(reference, f"merge_{method.name}")
    assert [*inspect.signature(function).parameters][3:] == [p.name for p in method.parameters]


@pytest.mark.parametrize("case", drawn_cases().values(), ids=list(drawn_cases()))
def test_the_formula_is_a_weighted_sum_if_the_method_says_so(case: Case) -> None:
    """Triton has no other formulas, and refuses the other methods before any tensor is read."""
    method, with_base, models, parameters = case
    rows = np.random.default_rng(1).standard_normal((models + 1, 64)).astype(np.float32)
    base, *readers = (lambda first, count, row=row: Operand(row, 4 * first, CODES["F32"]) for row in rows)
    found = METHODS[method].formula(Tensor("w", 64, readers, base if with_base else None), **parameters)
    assert (found["formula"] in (Formula.AFFINE, Formula.SUM, Formula.TASK)) == METHODS[method].weighted_sum


@by_method
def test_a_docstring_says_what_is_computed_and_has_an_example(method: Method) -> None:
    text = inspect.getdoc(inspect.getmodule(method.formula)) or ""
    assert "csrc/combine.h" in text
    assert ">>> " in text


def test_parameters_of_one_name_are_one_thing() -> None:
    for method in METHODS.values():
        for p in method.parameters:
            known = PARAMETERS[p.name]
            assert (p.kind, p.by_model, p.aliases) == (known.kind, known.by_model, known.aliases)
            assert p.mergekit in (known.mergekit, p.name)  # our plug-in for mergekit spells it as we do
            assert p.default is None or p.allows(p.default)


@pytest.mark.parametrize("case", drawn_cases())
def test_a_recipe_gives_back_the_parameters_it_was_written_with(case: str) -> None:
    given = drawn_cases()[case]
    made = from_dict(recipe(given, list("abcdefg")))
    assert made.parameters(NAME, classify(NAME), 1) == given[3]


@by_method
def test_other_methods_parameters_are_refused_by_name(method: Method) -> None:
    models = ["a", "b", "c"][: method.most]
    base = {"base": "x"} if method.base == "required" else {}
    own = {p.name: 0.5 for p in method.parameters if p.default is None}
    for name in set(PARAMETERS) - {p.name for p in method.parameters}:
        with pytest.raises(ArgumentError, match=f"{method.name} does not use {name}"):
            from_dict({"method": method.name, "models": models, **base, **own, name: 1})


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.mergekit])
def test_mergekits_parameters_mean_ours(name: str) -> None:
    method = METHODS[name]
    spelling = method.mergekit
    assert spelling is not None
    values = drawn(method, 2, 1)
    count = 1 if spelling.base == "first" else 2
    entries: list[dict[str, Any]] = [{"model": model, "parameters": {}} for model in "ab"[:count]]
    shared: dict[str, Any] = {key: bool(value) for key, value in spelling.ignored.items()}
    written = [p for p in method.parameters if p.mergekit is not None]
    for p in written:
        if p.by_model:
            for entry, value in zip(entries, values[p.name]):
                entry["parameters"][p.mergekit] = value
        else:
            shared[str(p.mergekit)] = values[p.name]
    base = {"base_model": "x"} if spelling.base == "first" or method.base != "none" else {}
    config = {"merge_method": spelling.name, **base, "models": entries, "parameters": shared}
    made = from_mergekit(yaml.safe_load(yaml.safe_dump(config)), "c.yml")
    assert (made.method, made.base) == (name, "x" if spelling.base == "base" and base else None)
    found = made.parameters(NAME, classify(NAME), 1)
    assert found == {**values, **{p.name: p.default for p in method.parameters if p.mergekit is None}}
    for key, only in spelling.ignored.items():
        if only is not None:
            with pytest.raises(ArgumentError, match=f"{key}: {not only} is not supported for {name}"):
                from_mergekit({**config, "parameters": {**shared, key: not only}}, "c.yml")


def row(method: Method) -> str:
    """The line of docs/recipes.md."""
    parameters = ", ".join(f"`{p.name}`" for p in method.parameters)
    base = {"none": "no", "optional": "if given", "required": "yes"}[method.base]
    mergekit = f"`{method.mergekit.name}`" if method.mergekit else ""
    cells = [f"`{method.name}`", method.summary, base, parameters, mergekit]
    return re.sub(" +", " ", f"| {' | '.join(cells)} |")


@by_method
def test_the_documentation_has_a_line_for_each(method: Method) -> None:
    lines = (ROOT / "docs" / "recipes.md").read_text().splitlines()
    assert row(method) in lines, f"docs/recipes.md lacks this line: {row(method)}"


def parameter_row(name: str) -> str:
    """The line of docs/recipes.md: default and range as the methods declare them."""
    found = {method.name: p for method in METHODS.values() for p in method.parameters if p.name == name}
    (span,) = {p.range for p in found.values()}
    usual = PARAMETERS[name] if name != "normalize" else found["ties"]
    by_default: dict[Any, list[str]] = {}
    for method, p in found.items():
        by_default.setdefault(p.default, []).append(f"`{method}`")

    def shown(default: Any) -> str:
        return "" if default is None else str(default).lower() if usual.kind == "truth" else f"{default:g}"

    parts = [shown(usual.default)]
    parts += [f"{shown(d)} for {', '.join(methods)}" for d, methods in by_default.items() if d != usual.default]
    means = usual.meaning + ("; each model may have its own" if usual.by_model else "")
    means += f" (mergekit's `{found['slerp'].mergekit if name == 'lam' else usual.mergekit}`)" * (
        usual.mergekit not in (None, name) or name == "lam"
    )
    return re.sub(" +", " ", f"| `{name}` | {'; '.join(parts)} | {span} | {means} |")


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_documentation_has_the_range_of_each_parameter(name: str) -> None:
    lines = (ROOT / "docs" / "recipes.md").read_text().splitlines()
    assert parameter_row(name) in lines, f"docs/recipes.md lacks this line: {parameter_row(name)}"


# One value below, one above and one of another type, by the kind of a parameter.
OUTSIDE: dict[str, list[Any]] = {
    "weight": [float("inf"), float("nan"), 1e39, "heavy", [1, "x"]],
    "density": [0, -1, 1.5, 20, float("nan"), 1e-320, "half"],
    "scale": [float("inf"), "big"],
    "normalize": [2, 0.5, "yes"],
    "lam": [-0.1, 1.1, float("nan"), "high"],
    "seed": [1.5, -(2**63) - 1, 2**64, 10**400, "one"],
}


def ways_in(method: Method, name: str, value: Any) -> dict[str, Any]:
    """Every function that a value of a parameter can be given to, without arguments."""
    count = method.least if method.most is None else method.most
    base = {"base": "x"} if method.base == "required" else {}
    given = {**{p.name: 0.5 for p in method.parameters if p.default is None}, name: value}
    tensors = [np.ones(4, np.float32) for _ in range(count)]
    start = {"base": np.zeros(4, np.float32)} if base else {}
    own = {"method": method.name, "models": list("abcd"[:count]), **base}
    ways: dict[str, Any] = {
        "combine": lambda: mi_kernels.combine(tensors, method.name, **start, **given),
        "recipe": lambda: from_dict({**own, **given}),
        "condition": lambda: from_dict({**own, **given, name: [{"filter": "mlp", "value": value}, {"value": 1}]}),
        "object": lambda: mi_kernels.merge_checkpoint(
            MergeRecipe(method.name, tuple("abcd"[:count]), base.get("base"), settings=given), "never"
        ),
    }
    p = next(p for p in method.parameters if p.name == name)
    if p.kind != "whole":
        ways["gradient"] = lambda: from_dict({**own, **given, name: [1, value] if value != [1, "x"] else value})
    else:
        del ways["condition"]
    if method.mergekit is not None and p.mergekit is not None:
        spelled = {q.mergekit: given.get(q.name, 1) for q in method.parameters if q.mergekit is not None}
        config = {
            "merge_method": method.mergekit.name,
            "base_model": "x",
            "models": [{"model": m} for m in ("ab" if method.mergekit.base != "first" else "a")],
            "parameters": spelled,
        }
        ways["mergekit"] = lambda: from_mergekit(config, "c.yml")
    return ways


CASES = [(m.name, p.name, value) for m in METHODS.values() for p in m.parameters for value in OUTSIDE[p.name]]


@pytest.mark.parametrize(("method", "name", "value"), CASES)
def test_values_outside_the_range_are_refused_wherever_they_are_given(method: str, name: str, value: Any) -> None:
    for way, call in ways_in(METHODS[method], name, value).items():
        with pytest.raises(ArgumentError) as error:
            call()
        assert len(str(error.value).splitlines()) == 2, way
        spelled = {p.name: p.mergekit for p in METHODS[method].parameters}[name] if way == "mergekit" else name
        assert f"{spelled} is " in str(error.value), way


def test_the_documentation_has_no_line_for_others() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    table = page[page.index("| method |") :].split("\n\n")[0].splitlines()[2:]
    assert {line.split("`")[1] for line in table} == {"lerp", *METHODS}


def test_the_method_that_docs_adding_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "adding.md").read_text()
    code = page[page.index("```python\n") + len("```python\n") :].split("```")[0]
    names: dict[str, Any] = {"__name__": "pulled"}
    exec(code, names)
    monkeypatch.setitem(METHODS, "pulled", names["METHOD"])
    example = doctest.DocTestParser().get_doctest(names["__doc__"], {}, "pulled", "docs/adding.md", 0)
    assert doctest.DocTestRunner().run(example) == (0, 2)


def test_the_files_that_docs_adding_names_exist() -> None:
    page = (ROOT / "docs" / "adding.md").read_text()
    named = re.findall(r"`((?:mi_kernels|csrc|tests|bench|docs)/[a-z0-9_/.]+|setup\.py)`", page)
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []
    for link in re.findall(r"\]\((\.\./[^)#]+)\)", page):
        assert (ROOT / "docs" / link).exists(), link


def test_no_other_module_lists_methods() -> None:
    """The names of methods are strings in their own modules only; the plug-in for mergekit serves one of its."""
    homes = ("methods", "integrations/mergekit")
    found = []
    for path in (ROOT / "mi_kernels").rglob("*.py"):
        if str(path.parent.relative_to(ROOT / "mi_kernels")) not in homes:
            constants = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            found += [(path, node.value) for node in constants if node.value in METHODS]
    assert not found
