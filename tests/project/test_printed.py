"""How the pages are run (`tests/support/printed.py`): servers, and the options that make commands small."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..support import documents, printed

SERVER = """#!/bin/sh
echo "$@" >> started
trap 'echo stopped >> started; exit {status}' TERM
echo "mi-kernels: to change it: curl" >&2
while :; do sleep 0.1; done
"""
PAGE = """# Serve

<!-- not run: needs a server -->

    python3 -c 'too early'

<!-- not run: needs vLLM -->

    mi-kernels serve A B --lam 0.5
    mi-kernels serve A B --lam 0.8 -- --max-model-len 32768   # long

<!-- not run: needs a server -->

    python3 -c 'open("started")'
"""


@pytest.fixture(autouse=True)
def _pages_of_another_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "ROOT", tmp_path)


@pytest.mark.parametrize("status", [0, 3])
def test_a_server_runs_until_the_next_one_or_the_end_of_the_page(tmp_path: Path, status: int) -> None:
    program = tmp_path / "mi-kernels"
    program.write_text(SERVER.format(status=status))
    program.chmod(0o755)
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    variables = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    outcomes = list(printed.run_page(page, tmp_path, variables, {"vLLM"}, 60))
    assert [bool(each.skipped) for each in outcomes] == [True, False, False, False, False, False]
    stops = [each for each in outcomes if each.text.startswith("stopping: ")]
    assert [each.problem.split("\n")[0] for each in stops] == ["exit status 3" if status else ""] * 2
    assert not any(each.problem for each in outcomes if each not in stops)
    small = "--dtype bfloat16 --enforce-eager --kv-cache-memory-bytes 268435456 --max-model-len 512"
    assert (tmp_path / "started").read_text().splitlines() == [
        f"serve A B --lam 0.5 -- {small}",
        "stopped",
        f"serve A B --lam 0.8 -- --max-model-len 32768 {small}",
        "stopped",
    ]


def test_a_server_that_does_not_answer_is_reported(tmp_path: Path) -> None:
    program = tmp_path / "mi-kernels"
    program.write_text("#!/bin/sh\necho no such folder >&2\nexit 2\n")
    program.chmod(0o755)
    page = tmp_path / "page.md"
    page.write_text("    mi-kernels serve A B --lam 0.5\n")
    variables = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    first, _ = printed.run_page(page, tmp_path, variables, (), 60)
    assert first.problem == "the server does not answer\nno such folder\n"


def test_a_page_that_would_install_something_is_not_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: needs vLLM -->\n\n    pip install nothing\n")
    with pytest.raises(AssertionError, match="would change this environment"):
        list(printed.run_page(page, tmp_path, {}, {"vLLM"}))
