"""README, docs/ and the other pages: what they print runs, links exist, commands and variables are documented.

Every block of Python and every line of shell that a reader types runs (`tests/support/printed.py`), in a folder with
tiny models of the names that the pages use. A block that cannot run here says why in a comment before it:

    <!-- not run: needs vLLM -->

`python tools/printed_commands.py --having vLLM` runs it where vLLM is. The arguments of commands that do not run are
parsed all the same. `<!-- file: NAME -->` before a block writes the block to that file.
"""

from __future__ import annotations

import ast
import glob
import importlib.util
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mi_kernels.cli.program import COMMANDS, build_parser

from ..support import ROOT, printed
from ..support.clones import copy_repository
from ..support.documents import PAGES, WITH_COMMANDS, anchors, arguments_of, blocks, links, paths

DOCS = ROOT / "docs"
ALL = {page.relative_to(ROOT).as_posix(): page for page in PAGES}
EVERY_PAGE = pytest.mark.parametrize("page", ALL.values(), ids=ALL)
EVERY_PAGE_WITH_COMMANDS = pytest.mark.parametrize(
    "page", WITH_COMMANDS, ids=[page.relative_to(ROOT).as_posix() for page in WITH_COMMANDS]
)
WITH_LINKS = [
    *sorted(ROOT.glob("*.md")),
    *(
        page
        for folder in ("docs", "bench", "csrc", "eval", "examples")
        for page in sorted((ROOT / folder).rglob("*.md"))
    ),
]
REPOSITORY = "https://github.com/mi-kernels/mi_kernels"
BEGIN, END = "<!-- figures:", "<!-- end of figures -->"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    printed.make_models(root)
    return root


@EVERY_PAGE_WITH_COMMANDS
def test_code_and_commands_run(page: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "clone"
    shutil.copytree(models, folder)
    copy_repository(folder)
    variables = printed.environment(tmp_path / "bin", ROOT, tmp_path)
    for name in ("PATH", "PYTHONPATH", "HF_HUB_OFFLINE", "HF_HOME"):  # for Python blocks, which run in this process
        monkeypatch.setenv(name, variables[name])
    monkeypatch.chdir(folder)
    for outcome in printed.run_page(page, folder, variables):
        assert not outcome.problem, f"{outcome.place}: {outcome.text}\n{outcome.problem}"


@EVERY_PAGE_WITH_COMMANDS
def test_commands_are_parsed(page: Path) -> None:
    for block in blocks(page):
        for line in block.commands:
            for words in arguments_of(line):
                try:
                    printed.parsed(words)
                except SystemExit as error:
                    if error.code:  # --help and --version end with 0
                        pytest.fail(f"{block.place}: {line}")


@EVERY_PAGE_WITH_COMMANDS
def test_commands_of_other_programs_are_parsed(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m eval`, and what is given to pytest and to Python: the files exist."""
    from eval.cli.program import build_parser as eval_parser

    for block in blocks(page):
        for line in block.commands:
            words = shlex.split(line, comments=True)
            if words[:3] == ["python", "-m", "eval"]:
                try:
                    eval_parser().parse_args(words[3:])
                except SystemExit as error:
                    pytest.fail(f"{block.place}: {line}: {error}\n{capsys.readouterr().err}")
            for word in words:
                if re.fullmatch(r"(tests|tools|examples)/[\w./-]+", word):
                    assert (ROOT / word).exists(), f"{block.place}: {line}: {word}"


@EVERY_PAGE_WITH_COMMANDS
def test_yaml_is_valid(page: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict), block.place


@EVERY_PAGE_WITH_COMMANDS
def test_what_does_not_run_says_what_it_needs(page: Path) -> None:
    for block in blocks(page):
        if block.not_run is not None:
            assert block.not_run.startswith("needs "), block.place
            assert printed.needs(block), f"{block.place}: name one of {', '.join(printed.NEEDS)}"


@EVERY_PAGE_WITH_COMMANDS
def test_what_installs_needs_a_fresh_environment(page: Path) -> None:
    """`pip` on PATH may belong to another Python than the one that runs the pages: it would change that one."""
    for block in blocks(page):
        if block.language != "python" and any(map(printed.installs, block.commands)):
            assert "a fresh environment" in printed.needs(block), block.place


def test_what_installs_is_recognised() -> None:
    for line in ("pip install torch", "python -m pip uninstall -y triton", "sudo apt-get install zsh", "uv pip sync f"):
        assert printed.installs(line)
    for line in ("python -m pip --version", "pip download torch", "mi-kernels lerp ./installed a -o b"):
        assert not printed.installs(line)


@EVERY_PAGE_WITH_COMMANDS
def test_what_starts_processes_is_a_program(page: Path) -> None:
    """vLLM and graders start processes that import the main module again: without `__main__` they never end."""
    for block in blocks(page):
        if block.language == "python" and re.search(r"(?<!async_)\bLLM\(|driver\.run\(", block.text):
            assert block.is_program, block.place
            ast.parse(block.text)


@EVERY_PAGE_WITH_COMMANDS
def test_nothing_installs_a_package_that_is_not_published(page: Path) -> None:
    """`pip install 'mi_kernels[ray]'` finds nothing before a release is on PyPI: `'.[ray]'` in a clone works."""
    assert not re.search(r"pip install (-\S+ )*'?mi_kernels[^=]", page.read_text().replace("mi_kernels==X.Y.Z", ""))


def test_what_printed_commands_make_is_ignored_by_git() -> None:
    """Readers of these pages work in a clone, and `git status` stays clean."""
    outs = {"runs/x", "site/index.html", "base/x", "instruct/x", "thinking/x", ".venv/x", "kit/x", "began"}
    for name in ("README.md", "CONTRIBUTING.md", "eval/README.md", "bench/README.md", "examples/README.md"):
        page = ROOT / name
        for block in blocks(page):
            for line in block.commands:
                for words in arguments_of(line):
                    out = getattr(printed.parsed(words), "out", None)
                    if isinstance(out, str) and not out.startswith("/"):
                        outs.add(f"{out.removeprefix('./')}/x")
    ask = subprocess.run(
        ["git", "check-ignore", "--stdin"], input="\n".join(outs), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert outs - set(ask.stdout.split("\n")) == set()


@pytest.mark.parametrize("page", WITH_LINKS, ids=[page.relative_to(ROOT).as_posix() for page in WITH_LINKS])
def test_links_lead_somewhere(page: Path) -> None:
    name = page.relative_to(ROOT)
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        if path.startswith(f"{REPOSITORY}/blob/main/"):
            target = ROOT / path.removeprefix(f"{REPOSITORY}/blob/main/")
        elif re.match(r"[a-z]+:", link):
            continue
        else:
            target = (page.parent / path) if path else page
        assert target.exists(), f"{name}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text()), f"{name}: {link}"


def test_the_readme_has_absolute_links() -> None:
    """PyPI shows README.md, where a relative link leads nowhere."""
    found = links((ROOT / "README.md").read_text())
    assert len(found) > 10
    assert [link for link in found if not link.startswith("https://")] == []


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
        "    runs/   a folder\n"
        "\n<!-- not run: needs a thing -->\n```python\nx = 1\n```\n<!-- file: f.yml -->\n\n```yaml\na: 1\n```\n"
    )
    first, second, third = blocks(page)
    assert first.line == 6
    assert [arguments_of(line) for line in first.commands] == [[["env"]], [["merge", "b.yml", "-o", "c"]]]
    assert (second.language, second.text, second.not_run) == ("python", "x = 1\n", "needs a thing")
    assert (third.text, third.file, third.not_run) == ("a: 1\n", "f.yml", None)
    page.write_text("<!-- not run: needs a thing -->\n\ntext\n")
    with pytest.raises(ValueError, match="not followed by a block"):
        blocks(page)
    assert arguments_of("mi-kernels serve A B --lam 0.5 -- --port 1 # it's open") == [
        ["serve", "A", "B", "--lam", "0.5", "--", "--port", "1"]
    ]
    assert links("[a](b.md#c) `[x](y)`\n\n[d]: https://e.f\n") == ["b.md#c", "https://e.f"]
    assert anchors("# What *is* told?\n## `a_b` and c\n") == {"what-is-told", "a_b-and-c"}
