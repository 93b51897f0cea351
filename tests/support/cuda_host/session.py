"""Run by test_cuda_driver.py in a process of its own, where libcuda.so.1 is driver.cpp and the extension that of
compile_extension: prints what a scenario saw as JSON.

    python -m tests.support.cuda_host.session SCENARIO LIBCUDA EXTENSION
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from typing import Any

import numpy as np

import mi_kernels
from mi_kernels.backends import chunk_table as table

from . import TRIPLES, WEIGHTS, aligned, make_pairs


class Fake:
    """The driver's memory of its calls."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.fake_calls.restype = ctypes.c_char_p

    def calls(self) -> list[str]:
        """Those since the last time."""
        calls = self._library.fake_calls().decode().replace(") ", ")\n").splitlines()
        self._library.fake_forget()
        return calls

    def fail(self, call: str, result: int) -> None:
        self._library.fake_fail(call.encode(), result)

    def capability(self, value: int) -> None:
        """That of every device, 90 for 9.0."""
        self._library.fake_capability(value)

    def depth(self) -> int:
        """How many contexts are pushed."""
        return int(self._library.fake_depth())


def load_extension(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("mi_kernels._cuda", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["mi_kernels._cuda"] = mi_kernels._cuda = module  # type: ignore[attr-defined]
    spec.loader.exec_module(module)
    return module


ARGUMENTS = {
    "tensors": 16, "weights": 16, "chunk_tensor": 16, "chunk_start": 16, "chunks": 1, "chunk": 16, "out_dtype": 0,
    "a_dtype": 0, "b_dtype": 0,
}  # fmt: skip


def attempt(function: Any, *positional: Any, **named: Any) -> str:
    try:
        function(*positional, **named)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def launch(_cuda: Any, fake: Fake) -> dict[str, Any]:
    """Every dtype triple on the second device, stream 7: the calls of each, and whether the bytes are right."""
    _cuda.prepare(1)
    seen: dict[str, Any] = {"prepare": fake.calls()}
    _cuda.prepare(1)
    seen["prepare again"] = fake.calls()
    for triple in TRIPLES:
        pairs = make_pairs(triple, [0, 5, 3000, 1, 9001], list(WEIGHTS[:5]), 1)
        expected = pairs.expected()
        built = table.build(pairs.addresses, pairs.counts, pairs.weights, 2048)
        packed = aligned(built.offsets.size)
        packed[:] = built.pack()
        sections = {name: packed.ctypes.data + at for name, at in built.offsets._asdict().items() if name != "size"}
        names = dict(zip(("out_dtype", "a_dtype", "b_dtype"), triple))
        _cuda.launch(1, 7, **sections, chunks=len(built.chunk_tensor), chunk=2048, **names)
        seen[str(triple)] = [fake.calls(), bool((pairs.arenas[0] == expected).all())]
    _cuda.launch(1, 7, **{**ARGUMENTS, "chunks": 0, "tensors": 0})
    seen["nothing"] = fake.calls()
    return seen


def errors(_cuda: Any, fake: Fake) -> dict[str, Any]:
    """What each failing call raises, and that no context is left behind."""
    seen = {}
    for call, result in (
        ("cuInit", 100),
        ("cuDevicePrimaryCtxRetain", 1),
        ("cuCtxPushCurrent", 1),
        ("cuModuleLoadData", 999),
        ("cuModuleGetFunction", 1),
        ("cuFuncLoad", 1),
        ("cuCtxPopCurrent", 1),
    ):
        fake.fail(call, result)
        fake.calls()
        seen[call] = [attempt(_cuda.prepare, 0), fake.depth(), fake.calls()[-1]]
    fake.fail("", 0)
    seen["cuDeviceGet"] = [attempt(_cuda.prepare, 5), fake.depth()]
    seen["unprepared"] = [attempt(_cuda.launch, 0, 0, **ARGUMENTS), fake.depth()]
    _cuda.prepare(0)
    for call in ("cuLaunchKernel", "cuCtxPushCurrent", "cuCtxPopCurrent"):
        fake.fail(call, 1)
        seen[f"launch: {call}"] = [attempt(_cuda.launch, 0, 0, **{**ARGUMENTS, **empty()}), fake.depth()]
    fake.fail("cuDeviceGetCount", 1)
    seen["device_count"] = [attempt(_cuda.device_count), fake.depth()]
    return seen


_EMPTY = (np.zeros(4, np.int64), np.zeros(1, np.float32), np.zeros(1, np.int32), np.zeros(1, np.int64))


def empty() -> dict[str, int]:
    """A table of one tensor without elements."""
    return dict(zip(("tensors", "weights", "chunk_tensor", "chunk_start"), (x.ctypes.data for x in _EMPTY)))


def arguments(_cuda: Any, fake: Fake) -> dict[str, Any]:
    """What launch says to each argument that cannot be."""
    _cuda.prepare(0)
    fake.calls()
    seen: dict[str, Any] = {}
    for name, value in (
        ("chunks", -1),
        ("chunks", 2**31),
        ("chunk", 0),
        ("chunk", 2**29 + 1),
        ("out_dtype", 3),
        ("a_dtype", -1),
        ("b_dtype", 3),
        ("tensors", 0),
        ("tensors", 12),
        ("weights", 2),
        ("chunk_tensor", 2),
        ("chunk_start", 4),
    ):
        seen[f"{name}={value}"] = attempt(_cuda.launch, 0, 0, **{**ARGUMENTS, name: value})
    seen["calls"] = fake.calls()
    return seen


class Stream:
    """What multi_lerp asks of torch's stream."""

    cuda_stream = 7


def multi_lerp(_cuda: Any, fake: Fake) -> dict[str, Any]:
    """backends.cuda.multi_lerp on tensors of the host, torch's streams replaced: groups, chunks, bytes, refusals."""
    import contextlib

    import torch

    from mi_kernels.backends import cuda, device_table

    stream = Stream()
    device = torch.device("cuda:0")

    def upload(device: Any, chunk: int, addresses: bytes, counts: bytes, weights: bytes) -> Any:
        built = table.build(
            np.frombuffer(addresses, np.int64).reshape(-1, 3),
            np.frombuffer(counts, np.int64),
            np.frombuffer(weights, np.float32),
            chunk,
        )
        packed = torch.from_numpy(built.pack().copy())
        return device_table.DeviceTable(packed, built.offsets, len(built.chunk_tensor), chunk, stream, None)

    device_table.upload = upload  # type: ignore[assignment]
    device_table.on_device = contextlib.nullcontext  # type: ignore[assignment]
    torch.cuda.current_stream = lambda device=None: stream  # type: ignore[assignment,return-value]
    torch.cuda.is_current_stream_capturing = lambda: False  # type: ignore[assignment]

    class OnDevice:
        """A host tensor that says it is on the device."""

        def __init__(self, tensor: Any) -> None:
            self.tensor, self.device, self.dtype = tensor, device, tensor.dtype
            self.data_ptr, self.numel = tensor.data_ptr, tensor.numel

    half, full, wide = torch.bfloat16, torch.float16, torch.float32
    dtypes = [(half,) * 3, (wide,) * 3, (half, full, wide), (half,) * 3, (full,) * 3, (half,) * 3]
    sizes = [70000, 33, 500, 0, 9000, 1]
    weights = [0.8, 0.3, 0.5, 0.5, 1.0, 0.0]
    generator = torch.Generator().manual_seed(0)
    pairs = [[torch.randn(n, generator=generator).to(t) for t in triple] for n, triple in zip(sizes, dtypes)]
    outs, a, b = ([OnDevice(pair[k]) for pair in pairs] for k in range(3))
    cuda.multi_lerp(outs, a, b, weights)  # type: ignore[arg-type]
    right = [torch.equal(o, torch.lerp(x.float(), y.float(), w).to(o.dtype)) for (o, x, y), w in zip(pairs, weights)]
    seen: dict[str, Any] = {"right": right, "calls": [call for call in fake.calls() if "Launch" in call]}
    cuda.multi_lerp([], [], [], [])
    cuda.multi_lerp(outs[3:4], a[3:4], b[3:4], [0.5])  # type: ignore[arg-type]
    seen["empty"] = [call for call in fake.calls() if "Launch" in call]
    fake.fail("cuLaunchKernel", 1)
    seen["error"] = attempt(cuda.multi_lerp, outs[:1], a[:1], b[:1], [0.5])
    fake.fail("", 0)
    seen["available"] = []
    for capability in (90, 75, 70):
        fake.capability(capability)
        seen["available"].append(cuda.available())
    fake.fail("cuDeviceGetCount", 1)
    seen["available"].append(cuda.available())
    return seen


def main() -> None:
    scenario, libcuda, extension = sys.argv[1:]
    fake = Fake(libcuda)  # loaded under its soname, libcuda.so.1, which is then the one the extension finds
    print(json.dumps(globals()[scenario](load_extension(extension), fake)))


if __name__ == "__main__":
    main()
