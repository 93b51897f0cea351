"""README and docs/: their code and commands run, their links exist, and every command and variable is documented.

A block of Python, and each line of a block that calls `mi-kernels`, runs. Each page has its own folder, with tiny
models of the names that the pages use. A block that cannot run here says why in a comment before it:

    <!-- not run: needs vLLM -->

Its commands are parsed all the same. `<!-- file: NAME -->` before a block writes the block to that file.
"""

from __future__ import annotations

import argparse
import ast
import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mi_kernels import lerp_checkpoint
from mi_kernels.cli.program import COMMANDS, build_parser

from ..support import ROOT
from ..support.adapters import write_adapter
from ..support.documents import PAGES, Block, anchors, arguments_of, blocks, links, paths
from ..support.fp8_models import fp8_model, quantised
from ..support.models import qwen3_model

DOCS = ROOT / "docs"
LAYERS = 36  # as many as Qwen3-4B has: the ranges of the pages, such as 12:36, fit
MODELS = {  # the names that the pages use, and which model each of them is
    "base": ("B", "Qwen/Qwen3-4B-Base"),
    "instruct": ("I", "A", "INSTRUCT", "Qwen/Qwen3-4B-Instruct-2507"),
    "thinking": ("T", "THINKING", "Qwen/Qwen3-4B-Thinking-2507"),
    "hybrid": ("H", "Qwen/Qwen3-4B"),
}
ALL = {page.relative_to(ROOT).as_posix(): page for page in PAGES}
EVERY_PAGE = pytest.mark.parametrize("page", ALL.values(), ids=ALL)
WITH_LINKS = [
    *sorted(ROOT.glob("*.md")),
    *(
        page
        for folder in ("docs", "bench", "csrc", "eval", "examples")
        for page in sorted((ROOT / folder).rglob("*.md"))
    ),
]
BEGIN, END = "<!-- figures:", "<!-- end of figures -->"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every model that the pages name, and two merges of them."""
    root = tmp_path_factory.mktemp("models")
    for seed, (name, others) in enumerate(MODELS.items()):
        qwen3_model(seed, tied=False, num_hidden_layers=LAYERS).save_pretrained(root / name)
        for other in others:
            (root / other).parent.mkdir(exist_ok=True)
            shutil.copytree(root / name, root / other)
    adapter = {
        f"model.layers.0.self_attn.q_proj.lora_{side}.weight": torch.randn(shape)
        for side, shape in (("A", (4, 32)), ("B", (32, 4)))
    }
    write_adapter(root / "my-adapter", adapter)
    for seed, name in enumerate(("instruct-fp8", "thinking-fp8")):
        quantised(root / name, fp8_model(seed))
    for name in ("mi-0.8", "OUT"):
        lerp_checkpoint(root / "instruct", root / "thinking", root / name, 0.8, progress=False)
    (root / "config.yml").write_text(
        "merge_method: linear\nmodels: [{model: instruct, parameters: {weight: 1}},"
        " {model: thinking, parameters: {weight: 3}}]\ndtype: bfloat16\n"
    )
    return root


@pytest.fixture
def workshop(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all models, and `mi-kernels` of this checkout on the PATH."""
    folder = tmp_path / "work"
    shutil.copytree(models, folder)
    program = tmp_path / "bin" / "mi-kernels"
    program.parent.mkdir()
    code = "import sys; from mi_kernels.cli import main; sys.exit(main())"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a model that is missing must not be looked for elsewhere
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(folder)
    return folder


def parsed(words: list[str]) -> argparse.Namespace:
    """The arguments of a call, as the program parses them."""
    own = words[: words.index("--")] if words[:1] == ["serve"] and "--" in words else words
    return build_parser().parse_args(own)


def make_room(line: str) -> None:
    """Removes what an earlier command of the page wrote to the place where this one writes."""
    for words in arguments_of(line):
        out = getattr(parsed(words), "out", None)
        if isinstance(out, str) and "-o" in words and "--overwrite" not in words:
            for made in glob.glob(re.sub(r"\\?\{lam\}", "*", out)):
                shutil.rmtree(made)


def run_block(block: Block, names: dict[str, Any]) -> None:
    if block.language == "python":
        code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
        exec(code, names)
    for line in block.commands:
        make_room(line)
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert done.returncode == 0, f"{block.place}: {line}\n{done.stdout}{done.stderr}"


@EVERY_PAGE
def test_code_and_commands_run(page: Path, workshop: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.file:
            (workshop / block.file).write_text(block.text)
        if not block.not_run:
            run_block(block, names)


@EVERY_PAGE
def test_commands_are_parsed(page: Path) -> None:
    for block in blocks(page):
        for line in block.commands:
            for words in arguments_of(line):
                try:
                    parsed(words)
                except SystemExit as error:
                    if error.code:  # --help and --version end with 0
                        pytest.fail(f"{block.place}: {line}")


@EVERY_PAGE
def test_yaml_is_valid(page: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict), block.place


@EVERY_PAGE
def test_what_does_not_run_says_what_it_needs(page: Path) -> None:
    for block in blocks(page):
        assert block.not_run is None or block.not_run.startswith("needs "), block.place


@pytest.mark.parametrize("page", WITH_LINKS, ids=[page.relative_to(ROOT).as_posix() for page in WITH_LINKS])
def test_links_lead_somewhere(page: Path) -> None:
    name = page.relative_to(ROOT)
    for link in links(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{name}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text()), f"{name}: {link}"


@EVERY_PAGE
def test_paths_and_modules_exist(page: Path) -> None:
    text = re.sub(f"{BEGIN}.*?{END}", "", page.read_text(), flags=re.DOTALL)  # figures name what measured them
    for path in paths(re.sub(r"\]\(.*?\)", "]", text)):
        if "NAME" in path:  # the reader's
            continue
        assert glob.glob(str(ROOT / path)) or glob.glob(str(ROOT / f"{path}.py")), path
    for module in re.findall(r"python -m ((?:tests|bench|eval|tools)[\w.]*)", text):
        assert importlib.util.find_spec(module.rstrip(".")), module


def test_every_page_is_in_the_index() -> None:
    index = {link.partition("#")[0] for link in links((DOCS / "README.md").read_text())}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= index


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_options_are_documented(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert f"mi-kernels {command}" in text
    with pytest.raises(SystemExit):
        build_parser(command).parse_args([command, "--help"])
    entries = re.findall(r"^  (-.+?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)  # "-o OUT, --out OUT"
    assert entries
    for entry in entries:
        names = re.findall(r"(?<!\S)--?[\w-]+", entry)
        assert "--help" in names or any(re.search(rf"(?<![\w-]){name}(?![\w-])", text) for name in names), entry


# Variables of ours, and of the programs that we call or that call us.
VARIABLE = re.compile(
    r"(?<![\w-])((?:MI_KERNELS|MI_EVAL|MERGEKIT|HF|TRITON|VLLM|RAY|OPENAI)_[A-Z_]*[A-Z]|CUDA_VISIBLE_DEVICES|TMPDIR)\b"
)


def strings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def variables_of_the_sources() -> set[str]:
    files = [ROOT / "setup.py", *(p for folder in ("mi_kernels", "eval") for p in (ROOT / folder).rglob("*.py"))]
    return {name for file in files for text in strings(file.read_text()) for name in VARIABLE.findall(text)}


def test_every_environment_variable_is_documented() -> None:
    found = variables_of_the_sources()
    assert {"MI_KERNELS_CPU_ISA", "MI_KERNELS_BACKEND", "MI_KERNELS_CUDA", "MI_EVAL_DATA", "HF_HUB_OFFLINE"} <= found
    documented = set(re.findall(r"^\| `(\w+)`", (DOCS / "environment.md").read_text(), re.MULTILINE))
    assert found <= documented, f"missing in docs/environment.md: {sorted(found - documented)}"


def test_no_variable_is_documented_that_nothing_reads() -> None:
    folders = ("mi_kernels", "eval", "tests", "bench", "tools", "csrc")
    files = [ROOT / "setup.py", *(p for f in folders for p in (ROOT / f).rglob("*") if p.suffix in (".py", ".sh"))]
    text = "\n".join(file.read_text() for file in files if file != Path(__file__))
    for name in re.findall(r"^\| `(\w+)`", (DOCS / "environment.md").read_text(), re.MULTILINE):
        assert name in text, name


def test_blocks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\ntext\n    continued\n\n"
        "    mi-kernels env   # a comment\n    echo a > b.yml && mi-kernels merge b.yml -o c\n"
        "\n<!-- not run: needs a thing -->\n```python\nx = 1\n```\n<!-- file: f.yml -->\n\n```yaml\na: 1\n```\n"
    )
    first, second, third = blocks(page)
    assert first.line == 6
    assert [arguments_of(line) for line in first.commands] == [[["env"]], [["merge", "b.yml", "-o", "c"]]]
    assert (second.language, second.text, second.not_run) == ("python", "x = 1\n", "needs a thing")
    assert (third.text, third.file, third.not_run) == ("a: 1\n", "f.yml", None)
    page.write_text("<!-- not run: needs a thing -->\n\ntext\n")
    with pytest.raises(ValueError, match="no block"):
        blocks(page)
    assert arguments_of("mi-kernels serve A B --lam 0.5 -- --port 1 # it's open") == [
        ["serve", "A", "B", "--lam", "0.5", "--", "--port", "1"]
    ]
    assert links("[a](b.md#c) `[x](y)`") == ["b.md#c"]
    assert anchors("# What *is* told?\n## `a_b` and c\n") == {"what-is-told", "a_b-and-c"}
