"""The choice of the device for a merge, with fake hardware; and whole merges on a fake GPU."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
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

from ..support.adapters import make_base, make_pair
from ..support.checks import World, assert_refused, run_cli, snapshot
from ..support.fake_gpu import FakeGpu
from ..support.methods import Case, drawn_cases, recipe
from ..support.models import load, merge_reference, save, tiny

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
def test_choice(request_: tuple[Any, ...], gpus: list[str], machine: Machine, place: tuple[Any, ...]) -> None:
    assert choose(*request_, gpus, machine)[:2] == place


def test_auto_notes_that_it_does_not_use_the_gpu() -> None:
    assert "use device 'cuda' to merge on the GPU" in choose("auto", None, None, TWO, ALL).notes[0]
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
                "Use one of the available devices",
            ],
        ),
        (
            ("cuda", None, None),
            TWO,
            NEITHER,
            ["device 'cuda' requested; found: NVIDIA H100", "cuda: this build", "MI_KERNELS_CUDA=cu128"],
        ),
        (("cuda", "cuda", None), TWO, TRITON, ["backend 'cuda' requested for tensors on cuda:0; available: triton"]),
        (("auto", None, "cuda"), "no GPU", ALL, ["backend 'cuda' requested by MI_KERNELS_BACKEND; found: no GPU"]),
        (("cuda:0,cuda:0", None, None), TWO, ALL, ["a GPU is repeated"]),
        (("cuda", "cpu", None), TWO, ALL, ["backend 'cpu' requested with device 'cuda'", "Use `device='cpu'`"]),
        (("cpu", "triton", None), TWO, ALL, ["backend 'triton' requested with device 'cpu'", "`device='cuda'`"]),
        (("cpu", None, "cuda"), TWO, ALL, ["backend 'cuda' requested by MI_KERNELS_BACKEND with device 'cpu'"]),
        (("cpu", "reference", None), TWO, ALL, ["backend 'reference' requested: it does not merge checkpoints"]),
        (("auto", "cudnn", None), TWO, ALL, ["backend 'cudnn' requested: unknown"]),
        (("cuda:x", None, None), TWO, ALL, ["device 'cuda:x': unknown", "cuda:0,cuda:1"]),
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
def test_found_gpus(monkeypatch: pytest.MonkeyPatch, cuda: str | None, available: bool, found: Any) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: ["first", "second"][i])
    gpus = device.found_gpus()
    assert gpus == found if available else str(found) in gpus


class Gpus:
    """Replaces the devices that `gpu_runner` creates by FakeGpus."""

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
def test_a_merge_on_a_gpu_is_bit_identical_to_the_cpu(
    tmp_path: Path, gpus: Gpus, masks: dict[str, str], dtype: Any
) -> None:
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
    assert any(gpu.launches for gpu in gpus.made)  # which worker gets a chunk is random
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
    tables = 48 * 2 * len(world.a) + 16 * 4 * 2  # of two outputs, for a chunk of each of two shards
    assert inputs <= gpus.made[0].queued["copy_in"] <= inputs + padding + tables


def test_a_device_that_fails_leaves_nothing_behind(
    tmp_path: Path, gpus: Gpus, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus.fail_at = 1
    world = World(tmp_path)
    assert_refused(
        capsys, tmp_path, world.argv("--device", "cuda", "--max-memory", "4096B", "-q"), "cuda:0 failed: CUDA error"
    )
    assert gpus.made[0].pinning.pinned == {}


def test_a_disk_that_fails_leaves_nothing_behind(
    tmp_path: Path, gpus: Gpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(self: ShardFile, data: memoryview, offset: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ShardFile, "write", write)
    world = World(tmp_path)
    assert_refused(capsys, tmp_path, world.argv("--device", "cuda", "-q"), os.strerror(errno.EIO))
    assert all(gpu.idle and not gpu.pinning.pinned for gpu in gpus.made)


def test_ctrl_c_leaves_nothing_pinned(tmp_path: Path, gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []

    def write(self: ShardFile, data: memoryview, offset: int) -> None:
        pinned.append(len(gpus.made[0].pinning.pinned))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

    monkeypatch.setattr(ShardFile, "write", write)
    world = World(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        mi_kernels.lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, device="cuda", progress=False)
    assert set(pinned) == {1}
    assert gpus.made[0].idle
    assert gpus.made[0].pinning.pinned == {}


def numbers(seed: int) -> dict[str, torch.Tensor]:
    """A tiny model without NaN, which has no angle."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=generator).to(t.dtype) for name, t in tiny(1).items()}


@pytest.mark.parametrize("case", drawn_cases(2).values(), ids=list(drawn_cases(2)))
def test_every_method_on_a_gpu_is_bit_identical_to_the_cpu(tmp_path: Path, gpus: Gpus, case: Case) -> None:
    folders = [str(save(tmp_path / f"m{seed}", numbers(seed), shards=2)) for seed in range(case[1] + case[2])]
    asked = recipe(case, folders)
    options: dict[str, Any] = {"progress": False, "max_memory": 8 * 4096, "threads": 4}
    found = []
    for name, where in (("cpu", "cpu"), ("cuda", "cuda:0,cuda:1")):
        report = mi_kernels.merge_checkpoint(asked, tmp_path / name, device=where, **options)
        assert (report.device, report.backend) == (where, name)
        found.append({path.name: path.read_bytes() for path in (tmp_path / name).glob("*.safetensors")})
    assert found[0] == found[1]
    assert verify_checkpoint(tmp_path / "cuda", progress=False).right
    assert any(gpu.launches for gpu in gpus.made)
    assert all(gpu.idle and not gpu.pinning.pinned for gpu in gpus.made)


def test_the_command_line_merges_by_any_method_on_a_gpu(
    tmp_path: Path, gpus: Gpus, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    (tmp_path / "recipe.yml").write_text(
        f"method: ties\nbase: {world.instruct}\nmodels: [{world.thinking}, {world.thinking}]\ndensity: 0.4\n"
    )
    for name in ("cpu", "cuda"):
        words = ["merge", tmp_path / "recipe.yml", "-o", tmp_path / name, "--device", name]
        assert run_cli([str(word) for word in words]) == 0
    assert "(cuda on cuda:0, " in capsys.readouterr().out
    cpu, cuda = (load(tmp_path / name) for name in ("cpu", "cuda"))
    assert all(torch.equal(cpu[name].view(torch.uint8), cuda[name].view(torch.uint8)) for name in cpu)
    assert sum(gpus.made[0].launches) > 0


def test_a_chunk_of_several_models_is_one_piece(tmp_path: Path, gpus: Gpus) -> None:
    """Two bf16 models and a base need four times the bytes of a chunk; with float32 models still one piece."""
    for dtype in (torch.bfloat16, torch.float32):
        folder = tmp_path / str(dtype)
        tensors = [{"lm_head.weight": torch.randn(700, 999, generator=torch.Generator().manual_seed(k)).to(dtype)}
                   for k in range(3)]  # fmt: skip
        base, *models = (str(save(folder / f"m{k}", side)) for k, side in enumerate(tensors))
        ties = {"method": "ties", "base": base, "models": models, "density": 1.0, "dtype": "bfloat16"}
        mi_kernels.merge_checkpoint(ties, folder / "out", device="cuda", threads=1, max_memory=5 << 18, progress=False)
        chunks = -(-(folder / "out" / "model.safetensors").stat().st_size // (1 << 18))
        gpu = gpus.made[-1]
        assert gpu.copies == {"copy_in": chunks, "copy_out": chunks}
        assert len(gpu.launches) == chunks > 2


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32"])
@pytest.mark.parametrize("sides", [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
@pytest.mark.parametrize("lams", [[0.8], [0.0, 0.2, 1.0]], ids=str)
def test_a_chunk_is_one_piece_whatever_its_tensors(
    tmp_path: Path, gpus: Gpus, lams: list[float], sides: Any, dtype: Any
) -> None:
    """Sweeps, mixed dtypes, conversions, and hundreds of tiny tensors beside a large one."""
    shapes = {"lm_head.weight": (300, 999), **{f"model.layers.0.mlp.experts.{i}.w": (3, i % 40) for i in range(300)}}
    for k, side in enumerate(sides):
        generator = torch.Generator().manual_seed(k)
        save(tmp_path / f"m{k}", {n: torch.randn(shape, generator=generator).to(side) for n, shape in shapes.items()})
    mi_kernels.sweep_checkpoint(
        tmp_path / "m0", tmp_path / "m1", f"{tmp_path}/out-{{lam}}", lams, device="cuda", dtype=dtype, threads=1,
        max_memory=(5 << 17) * len(lams), progress=False
    )  # fmt: skip
    size = (tmp_path / f"out-{lams[0]:g}" / "model.safetensors").stat().st_size
    computed = -(-size // (1 << 17))
    header = (tmp_path / f"out-{lams[0]:g}" / "model.safetensors").read_bytes()[:8]
    first = int.from_bytes(header, "little") // (1 << 17)  # the chunks before it have only the header
    gpu = gpus.made[0]
    assert gpu.copies["copy_in"] == gpu.copies["copy_out"] == computed - first > 4


def test_computed_sides_reach_the_gpu_as_float32(tmp_path: Path, gpus: Gpus) -> None:
    pair, other = make_pair(tmp_path), save(tmp_path / "other", make_base(2))
    ties = {"method": "ties", "base": str(pair.folder), "models": [pair.name, str(other)], "density": 0.5}
    found = []
    for name in ("cpu", "cuda"):
        mi_kernels.merge_checkpoint(ties, tmp_path / name, device=name, threads=2, progress=False)
        found.append({path.name: path.read_bytes() for path in (tmp_path / name).glob("*.safetensors")})
    assert found[0] == found[1]
    assert gpus.made[0].launches


def test_triton_refuses_what_it_does_not_run_before_anything_is_written(
    tmp_path: Path, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, tiny(1), tiny(2))
    before = snapshot(tmp_path)
    base, thinking = str(world.instruct), str(world.thinking)
    for method in ("ties", "dare_ties", "dare_linear"):
        asked = {"method": method, "base": base, "models": [thinking], "density": 0.5}
        for options in ({"device": "cuda", "backend": "triton"}, {"backend": "triton"}):
            with pytest.raises(BackendError, match=f"'{method}' does not run on backend 'triton'.*\n.*backend='cuda'"):
                mi_kernels.merge_checkpoint(asked, world.out, progress=False, **options)
    assert snapshot(tmp_path) == before
    # The remedies work, also where the variable asks for Triton.
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    with pytest.raises(BackendError, match="does not run on backend 'triton'"):
        mi_kernels.merge_checkpoint(asked, world.out, progress=False)
    for options in ({"backend": "cuda"}, {"device": "cpu", "backend": "cpu"}):
        mi_kernels.merge_checkpoint(asked, world.out, progress=False, overwrite=True, **options)


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
    assert sum("because a GPU adds two copies" in note for note in report["notes"]) == 1
