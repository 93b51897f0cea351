"""The commands inspect, env and demo."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mi_kernels import __version__, lerp_checkpoint, merge_checkpoint
from mi_kernels.cli import demonstration, env
from mi_kernels.system.packages import install

from ..support.adapters import make_pair
from ..support.checks import PROGRAM, World, assert_message, assert_refused, run_cli, snapshot
from ..support.fp8_models import fp8_model, quantised
from ..support.models import CONFIG, save, tiny


def inspected(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run_cli(["inspect", str(folder), "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


def test_inspect_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {**tiny(1), "model.layers.0.mlp.gate.weight": torch.zeros(4, 16), "odd.ids": torch.arange(3)}
    save(tmp_path / "m", tensors, 3)
    before = snapshot(tmp_path)
    summary = inspected(tmp_path / "m", capsys)
    modules = summary.pop("modules")
    assert summary == {
        "model": str(tmp_path / "m"),
        "architecture": "Qwen3ForCausalLM",
        "config": True,
        "adapter": None,
        "shards": 3,
        "tensors": len(tensors),
        "parameters": sum(t.numel() for t in tensors.values()),
        "bytes": sum(t.nbytes for t in tensors.values()),
        "layers": 2,
        "tied_embeddings": False,
        "dtypes": {"BF16": len(tensors) - 2, "F32": 1, "I64": 1},
        "merged_as": {"BF16": len(tensors) - 2, "F32": 1, "I64": 1},
        "other": ["odd.ids"],
        "merged": None,
        "made": None,
        "weights_digest": None,
        "notes": [],
    }
    assert list(modules) == ["attn", "ffn", "router", "norm", "embed", "head", "other"]
    assert modules["router"] == {"tensors": 1, "bytes": 4 * 16 * 4}
    assert modules["head"] == {"tensors": 1, "bytes": 50 * 16 * 2}
    assert modules["ffn"]["tensors"] == 2 * 3
    assert sum(m["bytes"] for m in modules.values()) == summary["bytes"]
    assert snapshot(tmp_path) == before


def test_inspect_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {**tiny(1, tied=True), **{f"odd.{i}": torch.ones(1) for i in range(6)}}
    save(tmp_path / "m", tensors, config={**CONFIG, "tie_word_embeddings": True})
    assert run_cli(["inspect", str(tmp_path / "m")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in (
        f"{tmp_path / 'm'}: Qwen3ForCausalLM, tied embeddings",
        "4.76 k parameters, 9.53 kB, ",
        f"{len(tensors)} tensors, 1 shard, 2 layers (0:2)",
        "BF16 (",
        "odd.0, odd.1, odd.2, odd.3, odd.4 and 1 more",
    ):
        assert words in out
    rows = {
        line.split()[0]: line.split()[1] for line in out.splitlines() if line and line.split()[0] in ("ffn", "norm")
    }
    assert rows == {"ffn": "6", "norm": "5"}
    assert "merged by" not in out


def test_inspect_shows_how_a_merge_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    lerp_checkpoint(world.instruct, world.thinking, world.out, 0.25, layers="1:", progress=False)
    assert run_cli(["inspect", str(world.out)]) == 0
    out = capsys.readouterr().out
    assert f"merged by mi_kernels {__version__} from {world.instruct}, {world.thinking}" in out
    assert "lam = 0.25, layers 1:" in out
    assert inspected(world.out, capsys)["merged"]["lam"] == 0.25


def test_inspect_shows_the_masks_and_parameters_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    models = [str(world.instruct), {"model": str(world.thinking), "weight": [0.2, 0.8]}]
    content = {"method": "ties", "base": str(world.instruct), "models": models, "density": 0.25}
    merge_checkpoint({**content, "layers": [0, "1:"], "modules": ["ffn", "attn"]}, world.out, progress=False)
    assert run_cli(["inspect", str(world.out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        f"merged by mi_kernels {__version__} from {world.instruct}, {world.instruct}, {world.thinking}: `ties` with "
        "weight 1 and [0.2, 0.8], density 0.25, scale 1, normalize true, layers 0,1:, modules ffn,attn."
    ) in lines


def test_inspect_names_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair, other = make_pair(tmp_path, 1), make_pair(tmp_path, 2)
    assert run_cli(["inspect", pair.name]) == 0
    assert f"adapter: {pair.adapter_folder}\n" in capsys.readouterr().out
    lerp_checkpoint(pair.name, other.folder, tmp_path / "out", 0.5, progress=False)
    for out in ("out", "again.safetensors"):
        lerp_checkpoint(pair.name, other.folder, tmp_path / out, 0.5, progress=False, overwrite=True)
        assert run_cli(["inspect", str(tmp_path / out)]) == 0
        assert f" from {pair.name}, {other.folder}: " in capsys.readouterr().out


def test_inspect_shows_the_dtypes_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantised(tmp_path / "m", fp8_model(1))
    assert run_cli(["inspect", str(tmp_path / "m")]) == 0
    assert "dtypes: BF16 (1), F8_E4M3 (4); a merge writes BF16 (5)\n" in capsys.readouterr().out
    summary = inspected(tmp_path / "m", capsys)
    assert (summary["dtypes"], summary["merged_as"]) == ({"BF16": 1, "F8_E4M3": 4}, {"BF16": 5})


def test_inspect_counts_one_and_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"model.layers.0.mlp.up_proj.weight": torch.ones(1)}
    save(tmp_path / "m", one)
    save(tmp_path / "n", one)
    assert run_cli(["inspect", str(tmp_path / "m")]) == 0
    assert "1 parameter, 4 B, 1 tensor, 1 shard, 1 layer (0:1)\n" in capsys.readouterr().out
    assert run_cli(["inspect", str(tmp_path / "m"), str(tmp_path / "n")]) == 0
    assert "can be merged: 1 tensor matches\n" in capsys.readouterr().out


def test_inspect_without_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "m", {"w": torch.ones(1)}, config=None)
    assert run_cli(["inspect", str(tmp_path / "m")]) == 0
    assert "no config.json" in capsys.readouterr().out
    (tmp_path / "m" / "config.json").write_text('{"model_type": "x"}')
    assert run_cli(["inspect", str(tmp_path / "m")]) == 0
    assert f"{tmp_path / 'm'}: config.json names no architecture, tied embeddings\n" in capsys.readouterr().out


WRONG_ARCHITECTURES = [None, [], [5], "Qwen3ForCausalLM", {"a": 1}, 5]


@pytest.mark.parametrize("architectures", WRONG_ARCHITECTURES)
def test_inspect_takes_any_architectures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], architectures: object
) -> None:
    save(tmp_path / "m", tiny(1), config={"architectures": architectures})
    assert inspected(tmp_path / "m", capsys)["architecture"] in (None, 5, "Qwen3ForCausalLM")


@pytest.mark.parametrize("record", [{"by": "another program"}, {"mi_kernels": "0.1", "method": "lerp", "lam": "x"}])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_inspect_with_a_record_of_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record: dict[str, str], options: list[str]
) -> None:
    save(tmp_path / "m", tiny(1), files={"mi_kernels.json": json.dumps(record)})
    assert run_cli(["inspect", str(tmp_path / "m"), *options]) == 0
    assert capsys.readouterr().err == ""


def test_inspect_prints_no_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "m", {"\x1b[31mred\n": torch.ones(1)})
    assert run_cli(["inspect", str(tmp_path / "m")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_env_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["mi_kernels"] == __version__
    assert facts["isa_used"] == os.environ.get("MI_KERNELS_CPU_ISA", facts["isa_found"][0])
    assert facts["isa_found"][-1] == "scalar"
    assert facts["numpy"] == np.__version__
    assert facts["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["cuda"] == torch.version.cuda
    assert facts["cores"] >= 1
    assert set(facts["missing"]) == {name for name in env._COSTS if facts[name] is None}
    assert facts["matplotlib"] is None or facts["matplotlib"] == importlib.metadata.version("matplotlib")


def test_env_and_the_hub(tmp_path: Path) -> None:
    """The cache with its free space, although its folder does not exist yet; of the token only that there is one."""
    secret = "hf_" + "x" * 34
    for token in (secret, None):
        environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_TOKEN": token or ""}
        shown = {}
        for options in ([], ["--json"]):
            done = subprocess.run(
                [*PROGRAM, "env", *options], capture_output=True, text=True, timeout=60, env=environment
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert secret not in done.stdout
            shown[len(options)] = done.stdout
        hub = json.loads(shown[1])["hub"]
        assert (hub["cache"], hub["token"], hub["offline"]) == (str(tmp_path / "hf" / "hub"), token is not None, True)
        assert 0 < hub["free_bytes"] <= shutil.disk_usage(tmp_path).total
        assert f"Hub cache    {tmp_path}/hf/hub, " in shown[0]
        assert ("Hub token    present" in shown[0]) == (token is not None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["matplotlib", "vllm", "mergekit", "ray", "shtab", "transformers", "ml_dtypes"])
def test_env_names_the_command_that_installs_a_part(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env, "_version", {"numpy": "2.0", "safetensors": "0.5"}.get)
    assert run_cli(["env"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{name} "))
    assert row[13:].startswith("missing: ")
    assert f"pip install {name}" in row.replace("'", "")
    assert name == "vllm" or install(name) in row  # as every other remedy
    assert "mi_kernels[" not in row  # our own extras need an index that has us


def test_env_as_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MI_KERNELS_CPU_ISA", "scalar")
    versions = {"torch": None, "triton": None, "numpy": "2.0", "safetensors": "0.5"}
    monkeypatch.setattr(env, "_version", versions.get)
    monkeypatch.setattr(env, "_driver", lambda: "CUDA 12.8")
    assert run_cli(["env"]) == 0
    out = capsys.readouterr().out
    rows = {line[:12].strip(): line[13:] for line in out.splitlines()}
    assert rows["mi_kernels"] == __version__
    assert rows["CPU kernels"].startswith("scalar (forced by MI_KERNELS_CPU_ISA); found ")
    assert rows["driver"] == "CUDA 12.8"
    assert rows["numpy"] == "2.0"
    for name, cost in (
        ("torch", "only NumPy arrays"),
        ("triton", "Triton backend is not available"),
        ("cuda", "cannot use a GPU"),
    ):
        assert rows[name].startswith("missing: ")
        assert cost in rows[name]


def test_env_rejects_an_unavailable_isa(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MI_KERNELS_CPU_ISA", "mmx")
    assert_refused(capsys, tmp_path, ["env"], "mmx", "scalar")


@pytest.mark.skipif(env._driver() is not None, reason="with a driver torch is asked about its GPUs")
def test_env_imports_no_torch() -> None:
    code = "import sys; from mi_kernels.cli import main; main(['env']); print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "False\n"


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the smallest model of the demo, whose embedding has 34 MB, by a tiny one."""
    from mi_kernels.output.synthetic import qwen3_shapes

    def shapes(nbytes: int) -> dict[str, tuple[int, ...]]:
        return qwen3_shapes(hidden=64, layers=2, ffn=96, heads=2, kv_heads=1, head_dim=32, vocab=500)

    monkeypatch.setattr(demonstration, "qwen3_like", shapes)


@pytest.mark.usefixtures("small_demo")
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["demo", "--folder", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"mi-kernels: reads .* MB, writes .* MB to {tmp_path} \(.* free\)\n", err)
    assert [line.split()[0] for line in out.splitlines()] == [
        "wrote", "merged", "checked", "merge", "copy", "ratio",
    ]  # fmt: skip
    assert "3 shards" in out
    assert "lam 0.8" in out
    assert "elements: bit-identical" in out
    assert list(tmp_path.iterdir()) == []


def test_demo_of_a_real_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["demo", "--size", "30MB", "--folder", str(tmp_path)]) == 0
    assert "bit-identical" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_demo")
def test_demo_detects_a_single_wrong_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = demonstration.lerp_checkpoint

    def wrong(instruct: Path, thinking: Path, out: Path, lam: float, **options: Any) -> object:
        report = real(instruct, thinking, out, lam, **options)
        shard = max(out.glob("*.safetensors"))
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
        return report

    monkeypatch.setattr(demonstration, "lerp_checkpoint", wrong)
    assert run_cli(["demo", "--folder", str(tmp_path)]) == 2
    assert_message(capsys.readouterr().err, "1 of ", "differ from the reference", "bug")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "big"], ("--size", "'big'")),
        (["--size", "0"], ("--size", "'0'")),
        pytest.param(["--folder", "/no/such/folder"], ("/no/such/folder",)),
    ],
)
def test_demo_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: tuple[str, ...]
) -> None:
    assert_refused(capsys, tmp_path, ["demo", *options], *words)


@pytest.mark.usefixtures("small_demo")
def test_demo_on_a_full_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(demonstration, "write_checkpoint", full)
    assert run_cli(["demo", "--folder", str(tmp_path)]) == 2
    assert_message(capsys.readouterr().err, os.strerror(28))
    assert list(tmp_path.iterdir()) == []
