"""Every recipe, script and notebook of examples/ runs as it is, in a folder with ./base, ./instruct and ./thinking."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mi_kernels
from mi_kernels.checkpoint.tensor import TensorInfo
from mi_kernels.cli import main

from ..support import ROOT

EXAMPLES = ROOT / "examples"
RECIPES = sorted(path.stem for path in (EXAMPLES / "recipes").glob("*.yml"))
SCRIPTS = ["merge", "verify", "sweep", "tensors", "live", "paper"]  # in this order: verify checks what merge made
NOTEBOOK = json.loads((EXAMPLES / "notebook.ipynb").read_text())


def run(script: str, folder: Path, *arguments: str, status: int = 0) -> str:
    """What the script prints; it ends with `status`. It imports this mi_kernels, and finds the models in `folder`."""
    package = str(Path(mi_kernels.__file__).parents[1])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(EXAMPLES / f"{script}.py"), *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def values(folder: str) -> dict[str, np.ndarray]:
    """The tensors of a bf16 model, as the bits of each element."""
    model = mi_kernels.open_checkpoint(folder)
    found = {}
    for name, tensor in model.tensors.items():
        assert isinstance(tensor, TensorInfo)
        assert tensor.dtype == "BF16"
        found[name] = np.fromfile(model.shards[tensor.shard], np.uint16, tensor.elements, offset=tensor.begin)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    run("make_models", folder)
    return folder


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(here: Path, name: str) -> None:
    """It merges to a model that is neither input, and the merge done again has the same bytes."""
    assert main(["merge", str(EXAMPLES / "recipes" / f"{name}.yml"), "-o", "merged"]) == 0
    assert mi_kernels.verify_checkpoint("merged", recompute=[], progress=False).right
    merged = values("merged")
    for side in ("base", "instruct", "thinking"):
        assert any(not np.array_equal(merged[key], bits) for key, bits in values(side).items())


def test_what_the_rules_say(here: Path) -> None:
    """The comments in rules.yml, tensor by tensor."""
    assert main(["merge", str(EXAMPLES / "recipes" / "rules.yml"), "-o", "merged"]) == 0
    instruct, thinking, merged = values("instruct"), values("thinking"), values("merged")
    expected = {
        "model.embed_tokens.weight": 0.0,
        "model.layers.2.input_layernorm.weight": 0.5,  # a norm too, but the rule for the middle third comes later
        "model.layers.5.input_layernorm.weight": 0.0,
        "model.layers.0.mlp.up_proj.weight": 0.8,
        "model.layers.0.self_attn.q_proj.weight": 0.8,
        "model.layers.2.self_attn.q_proj.weight": 0.5,
        "model.layers.5.self_attn.q_proj.weight": 1.0,
        "model.layers.2.mlp.down_proj.weight": 0.3,
    }
    for name, lam in expected.items():
        lerped = mi_kernels.lerp(instruct[name], thinking[name], lam, backend="reference")
        assert np.array_equal(merged[name], lerped), name


def test_the_masks(here: Path) -> None:
    assert main(["merge", str(EXAMPLES / "recipes" / "masks.yml"), "-o", "merged"]) == 0
    instruct, merged = values("instruct"), values("merged")
    changed = {name for name, bits in merged.items() if not np.array_equal(bits, instruct[name])}
    assert changed == {name for name in instruct if re.search(r"layers\.[2-5]\.mlp\.\w+_proj", name)}


def test_the_scripts(here: Path) -> None:
    for name in SCRIPTS:
        if name == "live":
            pytest.importorskip("transformers")
        printed = run(name, here)
        assert printed, name
    assert sorted(path.name for path in (here / "runs").iterdir()) == [
        *("mi-0.2", "mi-0.4", "mi-0.6", "mi-0.8"),
        "models",
    ]


def test_the_models_of_the_paper(here: Path) -> None:
    """Nine lam, five masks of layers and two of modules; each ablation keeps INSTRUCT's bytes elsewhere."""
    run("paper", here)
    instruct, made = values("instruct"), here / "runs" / "models"
    assert len(list(made.iterdir())) == 9 + 5 + 2
    for name, changed in {
        "first-third": r"layers\.[01]\.",
        "last-two-thirds": r"layers\.[2-5]\.",
        "no-attn": r"embed|mlp|layernorm|model\.norm",
        "no-ffn": r"embed|self_attn|layernorm|model\.norm",
    }.items():
        found = {key for key, bits in values(str(made / name)).items() if not np.array_equal(bits, instruct[key])}
        assert found == {key for key in instruct if re.search(changed, key)}, name


def test_a_tool_of_your_own(here: Path) -> None:
    """It writes a model that opens, with each tensor's own lam."""
    run("tool", here)
    instruct, thinking, merged = values("instruct"), values("thinking"), values("merged-by-tool")
    for name, lam in {
        "model.norm.weight": 0.0,
        "model.layers.3.self_attn.q_proj.weight": 0.9,
        "model.layers.3.mlp.up_proj.weight": 0.5,
    }.items():
        assert np.array_equal(merged[name], mi_kernels.lerp(instruct[name], thinking[name], lam, backend="reference"))


class Server(BaseHTTPRequestHandler):
    """As `mi-kernels serve --effort low=0.3,high=0.8` answers, with the lam in place of an answer."""

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "instruct+thinking"}, {"id": "instruct+thinking@low"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, body["model"]) == ("/v1/chat/completions", "instruct+thinking")
        merge = {"lam": {"low": 0.3, "high": 0.8}[body["reasoning_effort"]], "effort": body["reasoning_effort"]}
        said = f"{body['messages'][0]['content']} at lam {merge['lam']}"
        self.reply({"mi_kernels": merge, "choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]})

    def reply(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_serving_with_efforts(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    pytest.importorskip("openai")
    url = ("--url", f"http://127.0.0.1:{server.server_port}")
    assert run("efforts", tmp_path, *url, "--effort", "low", "one") == "one at lam 0.3\n[effort low, lam 0.3]\n"
    said = run("efforts", tmp_path, *url, "--effort", "high", "two", "three")
    assert said == "two at lam 0.8\n[effort high, lam 0.8]\nthree at lam 0.8\n[effort high, lam 0.8]\n"


def test_the_notebook(tmp_path: Path) -> None:
    """Its cells run in order, in a folder without models."""
    cells = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    (tmp_path / "cells.py").write_text("\n".join(cells))
    package = str(Path(mi_kernels.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "12 tensors interpolated, 56 copied" in done.stdout


def test_the_notebook_has_no_outputs() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(ids) == len(set(ids))
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_a_damaged_model(here: Path) -> None:
    """verify.py ends with status 1, and names the file."""
    run("merge", here)
    config = here / "merged" / "config.json"
    config.write_text(config.read_text().replace("qwen3", "qwen2"))
    assert "config.json" in run("verify", here, status=1)


def test_the_list() -> None:
    """README.md lists every example, and every script runs above."""
    listed = set(re.findall(r"\]\(([\w./]+\.(?:py|yml|ipynb))\)", (EXAMPLES / "README.md").read_text()))
    kinds = (".py", ".yml", ".ipynb")
    there = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.suffix in kinds}
    assert listed == there
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SCRIPTS, "make_models", "tool", "efforts"}
