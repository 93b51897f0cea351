"""Where a checkpoint is merged, on machines that are made up; and whole merges on a GPU that is one only in name."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import mi_kernels
from mi_kernels import BackendError
from mi_kernels.backends import device, dispatch, gpu_runner
from mi_kernels.backends.device import choose
from mi_kernels.backends.dispatch import Machine
from mi_kernels.output.writer import ShardFile
from mi_kernels.verify.verify import verify_checkpoint

from ..support.checks import World, assert_refused, run_cli, snapshot
from ..support.fake_gpu import FakeGpu
from ..support.models import load, merge_reference, tiny

ALL = Machine(cuda=None, triton=None)
TRITON = Machine(cuda="this build of mi_kernels is for the CPU only.", triton=None)
NEITHER = Machine(cuda="this build of mi_kernels is for the CPU only.", triton="triton is not installed.")
TWO = ["NVIDIA H100", "NVIDIA A100"]


@pytest.mark.parametrize(
    ("request_", "gpus", "machine", "place"),
    [
        (("auto", None, None), [], ALL, ("cpu", ())),
        (("auto", None, None), TWO, ALL, ("cpu", ())),
        (("auto", "cpu", "cuda"), TWO, ALL, ("cpu", ())),
        (("cpu", None, None), TWO, ALL, ("cpu", ())),
        (("cuda", None, None), TWO, ALL, ("cuda", ("cuda:0",))),
        (("cuda:1", None, None), TWO, TRITON, ("triton", ("cuda:1",))),
        (("cuda:0,cuda:1", "triton", None), TWO, ALL, ("triton", ("cuda:0", "cuda:1"))),
        (("cuda", None, "triton"), TWO, ALL, ("triton", ("cuda:0",))),
        (("cuda", "cuda", "triton"), TWO, ALL, ("cuda", ("cuda:0",))),
        (("auto", "triton", None), TWO, ALL, ("triton", ("cuda:0",))),
        (("auto", None, "cuda"), TWO, ALL, ("cuda", ("cuda:0",))),
    ],
)
def test_what_is_chosen(request_: tuple[Any, ...], gpus: list[str], machine: Machine, place: tuple[Any, ...]) -> None:
    assert choose(*request_, gpus, machine)[:2] == place


def test_auto_says_that_a_gpu_is_left_alone() -> None:
    assert "device 'cuda' uses it" in choose("auto", None, None, TWO, ALL).notes[0]
    assert choose("auto", None, None, [], ALL).notes == ()
    assert choose("cpu", None, None, TWO, ALL).notes == ()


@pytest.mark.parametrize(
    ("request_", "gpus", "machine", "parts"),
    [
        (("cuda", None, None), "torch is not installed", ALL, ["'cuda' requested; found: torch is not", "able: cpu\n"]),
        (
            ("cuda:2", None, None),
            TWO,
            ALL,
            [
                "device 'cuda:2' requested; found: cuda:0 (NVIDIA H100), cuda:1 (NVIDIA A100); available: cpu, cuda:0",
                "Use one of these",
            ],
        ),
        (
            ("cuda", None, None),
            TWO,
            NEITHER,
            ["device 'cuda' requested; found: NVIDIA H100", "cuda: this build", "whe"],
        ),
        (("cuda", "cuda", None), TWO, TRITON, ["backend 'cuda' requested for tensors on cuda:0; available: triton"]),
        (("auto", None, "cuda"), "no GPU", ALL, ["backend 'cuda' requested by MI_KERNELS_BACKEND; found: no GPU"]),
        (("cuda:0,cuda:0", None, None), TWO, ALL, ["one of them twice"]),
        (("cuda", "cpu", None), TWO, ALL, ["backend 'cpu' requested with device 'cuda'", "Use device 'cpu'"]),
        (("cpu", "triton", None), TWO, ALL, ["backend 'triton' requested with device 'cpu'", "device 'cuda'"]),
        (("cpu", None, "cuda"), TWO, ALL, ["backend 'cuda' requested by MI_KERNELS_BACKEND with device 'cpu'"]),
        (("cpu", "reference", None), TWO, ALL, ["backend 'reference' requested: does not stream checkpoints"]),
        (("auto", "cudnn", None), TWO, ALL, ["backend 'cudnn' requested: unknown"]),
        (("cuda:x", None, None), TWO, ALL, ["device 'cuda:x': unknown", "'cuda:0,cuda:1'"]),
        (("cuda:", None, None), TWO, ALL, ["device 'cuda:': unknown"]),
        (("mps", None, None), TWO, ALL, ["device 'mps': unknown"]),
        (("cpu,cuda", None, None), TWO, ALL, ["device 'cpu,cuda': unknown"]),
        (("cpu", None, None), TWO, Machine(cpu_extension=False), ["C++17 compiler"]),
    ],
)
def test_refusals_say_requested_found_and_available(
    request_: tuple[Any, ...], gpus: Any, machine: Machine, parts: list[str]
) -> None:
    with pytest.raises(BackendError) as refusal:
        choose(*request_, gpus, machine)
    for part in parts:
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("cuda", "available", "found"),
    [
        (None, False, "built without CUDA"),
        ("13.0", False, "no NVIDIA driver, or no device is visible"),
        ("13.0", True, ["first", "second"]),
    ],
)
def test_what_torch_finds(monkeypatch: pytest.MonkeyPatch, cuda: str | None, available: bool, found: Any) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: ["first", "second"][i])
    gpus = device.found_gpus()
    assert gpus == found if available else str(found) in gpus


class Gpus:
    """The devices that `gpu_runner` makes, FakeGpus all."""

    def __init__(self) -> None:
        self.made: list[FakeGpu] = []
        self.fail_at: int | None = None

    def __call__(self, name: str, backend: str) -> FakeGpu:
        gpu = FakeGpu(fail_at=self.fail_at)
        gpu.name, gpu.backend = name, backend  # type: ignore[attr-defined]
        self.made.append(gpu)
        return gpu


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.setattr(device, "found_gpus", lambda: TWO)
    monkeypatch.setattr(dispatch, "this_machine", lambda kind: ALL)
    fakes = Gpus()
    monkeypatch.setattr(gpu_runner, "CudaGpu", fakes)
    return fakes


@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize("masks", [{}, {"modules": "ffn"}])
def test_a_merge_on_a_gpu_has_the_cpus_bytes(tmp_path: Path, gpus: Gpus, masks: dict[str, str], dtype: Any) -> None:
    world = World(tmp_path)
    common = {"lam": 0.3, "dtype": dtype, "progress": False, "max_memory": 8 * 4096, "threads": 4, **masks}
    report = mi_kernels.lerp_checkpoint(
        world.instruct, world.thinking, world.out, device="cuda:0,cuda:1", backend="triton", **common
    )
    assert (report.backend, report.device) == ("triton", "cuda:0,cuda:1")
    cpu = mi_kernels.lerp_checkpoint(world.instruct, world.thinking, tmp_path / "cpu", **common)
    assert (cpu.backend, cpu.device) == ("cpu", "cpu")
    ours, theirs = (
        {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
        for folder in (world.out, tmp_path / "cpu")
    )
    assert ours == theirs
    assert verify_checkpoint(world.out, progress=False).right
    assert [(gpu.name, gpu.backend) for gpu in gpus.made] == [("cuda:0", "triton"), ("cuda:1", "triton")]
    assert any(gpu.launches for gpu in gpus.made)  # which worker gets a chunk is chance
    assert all(gpu.idle for gpu in gpus.made)


def test_a_sweep_uploads_once_for_all_outputs(tmp_path: Path, gpus: Gpus) -> None:
    world = World(tmp_path)
    options: dict[str, Any] = {"device": "cuda", "progress": False}
    mi_kernels.sweep_checkpoint(world.instruct, world.thinking, f"{tmp_path}/s-{{lam}}", [0.0, 0.2, 0.8], **options)
    for lam in (0.0, 0.2, 0.8):
        merged = load(tmp_path / f"s-{lam:g}")
        for name, tensor in merge_reference(world.a, world.b, lam).items():
            assert torch.equal(merged[name].view(torch.int16), tensor.view(torch.int16)), name
    inputs = 2 * sum(t.nbytes for t in world.a.values())
    padding = 16 * 2 * len(world.a) * 2
    assert inputs <= gpus.made[0].queued["copy_in"] <= inputs + padding


def test_a_device_that_fails_leaves_nothing_behind(
    tmp_path: Path, gpus: Gpus, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus.fail_at = 1
    world = World(tmp_path)
    assert_refused(
        capsys, tmp_path, world.argv("--device", "cuda", "--max-memory", "4096", "-q"), "cuda:0 failed: CUDA error"
    )


def test_a_disk_that_fails_leaves_nothing_behind(
    tmp_path: Path, gpus: Gpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(self: ShardFile, data: memoryview, offset: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ShardFile, "write", write)
    world = World(tmp_path)
    assert_refused(capsys, tmp_path, world.argv("--device", "cuda", "-q"), os.strerror(errno.EIO))
    assert all(gpu.idle for gpu in gpus.made)


def test_formulas_stay_on_the_cpu(tmp_path: Path, gpus: Gpus) -> None:
    world = World(tmp_path, tiny(1), tiny(2))
    before = snapshot(tmp_path)
    recipe = {"method": "linear", "models": [{"model": str(m), "weight": 1} for m in (world.instruct, world.thinking)]}
    with pytest.raises(BackendError, match=r"device 'cuda' requested for method 'linear', which runs on the CPU only"):
        mi_kernels.merge_checkpoint(recipe, world.out, device="cuda", progress=False)
    with pytest.raises(BackendError, match=r"backend 'triton' requested for method 'linear'"):
        mi_kernels.merge_checkpoint(recipe, world.out, backend="triton", progress=False)
    assert snapshot(tmp_path) == before
    assert mi_kernels.merge_checkpoint(recipe, world.out, progress=False).device == "cpu"


def test_the_command_line_says_where_it_merged(
    tmp_path: Path, gpus: Gpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    assert run_cli(world.argv("--device", "cuda:1")) == 0
    assert "(cuda on cuda:1, " in capsys.readouterr().out
    monkeypatch.setattr(device, "glob", lambda pattern: ["/dev/nvidia0"])
    assert run_cli(world.argv("--overwrite", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["device"] == "cpu"
    assert sum("a GPU would only add" in note for note in report["notes"]) == 1
