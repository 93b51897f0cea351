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


def posing() -> Any:
    """Makes torch's streams and the uploads of the backend those of the host; returns a class of host tensors that say
    they are on cuda:0."""
    import contextlib

    import torch

    from mi_kernels.backends import combine_table, cuda_combine, device_table

    stream, device = Stream(), torch.device("cuda:0")
    torch.cuda.current_stream = lambda device=None: stream  # type: ignore[assignment,return-value]
    torch.cuda.is_current_stream_capturing = lambda: False  # type: ignore[assignment]
    device_table.on_device = contextlib.nullcontext  # type: ignore[assignment]
    combine_table.upload = lambda device, values: torch.from_numpy(values)
    cuda_combine._memory = lambda device, size: torch.full((size,), 0xA5, dtype=torch.uint8)

    class OnDevice(torch.Tensor):
        @property
        def device(self) -> Any:
            return device

        @property
        def is_cuda(self) -> bool:
            return True

    return lambda tensor: tensor.as_subclass(OnDevice)


def launches(fake: Fake) -> list[str]:
    return [call for call in fake.calls() if "Launch" in call]


def combine(_cuda: Any, fake: Fake) -> dict[str, Any]:
    """cuda_combine.multi_combine: groups, chunks, bytes, errors."""
    import torch

    from mi_kernels._cpu import Formula
    from mi_kernels.backends import cuda_combine

    from ..bits import BF16
    from ..formulas import random_formula
    from .combined import make_combined, mixes

    wrap = posing()
    made = []
    for models, mixed in ((5, False), (5, True), (4, True), (7, True)):
        formats = mixes(models, 3, models) if mixed else [(BF16,) * (models + 1)] * 3
        formulas = [random_formula(kind, models, 1) for kind in (Formula.TIES, Formula.DARE, Formula.AFFINE)]
        made.append(make_combined(formulas, formats, [9001, 0, 20000], models))
    expected = [one.expected() for one in made]
    tasks = [task for one in made for task in one.tasks(wrap)]
    cuda_combine.multi_combine(tasks)
    right = [bool((one.arenas[0] == want).all()) for one, want in zip(made, expected)]
    seen: dict[str, Any] = {"right": right, "calls": launches(fake)}
    cuda_combine.multi_combine([])
    cuda_combine.multi_combine(tasks[1:2])
    seen["empty"] = launches(fake)
    x = tasks[0].operands[0]
    calls: list[tuple[Any, ...]] = [
        (cuda_combine.multi_combine, tasks),
        (cuda_combine.kth_largest_difference, x, x, 1),
        (cuda_combine.moments, x, x, None),
    ]
    fake.fail("cuLaunchKernel", 1)
    seen["errors"] = [attempt(*call) for call in calls]
    fake.fail("", 0)
    torch.cuda.is_current_stream_capturing = lambda: True  # type: ignore[assignment]
    seen["capturing"] = [attempt(*call) for call in calls[1:]]
    return seen


def statistics(_cuda: Any, fake: Fake) -> dict[str, Any]:
    """Ranks against sorting, and moments against the CPU's kernel, on tensors that lie anywhere."""
    import itertools

    import torch

    from mi_kernels import _cpu
    from mi_kernels.backends import cuda_combine
    from mi_kernels.backends.moments import PIECE, Moments, total

    from ..bits import FORMATS, Format, random_bits, specials, to_torch
    from ..formulas import moderate_bits

    wrap = posing()

    def placed(fmt: Format, bits: Any, skew: int) -> Any:
        room = aligned(bits.nbytes + 64)
        at = skew * bits.itemsize
        room[at : at + bits.nbytes] = bits.view(np.uint8)
        return wrap(torch.from_numpy(room[at : at + bits.nbytes]).view(fmt.dtype))

    def few_values(fmt: Format, n: int, seed: int) -> Any:
        return np.random.default_rng(seed).choice(specials(fmt), n).astype(fmt.uint)

    def equal(fmt: Format, n: int, seed: int) -> Any:
        return np.full(n, specials(fmt)[6], fmt.uint)

    def mostly_equal(fmt: Format, n: int, seed: int) -> Any:
        bits = moderate_bits(fmt, n, 1).copy()
        bits[:: 1 + seed] = moderate_bits(fmt, n, 99)[:: 1 + seed]
        return bits

    kinds = (random_bits, moderate_bits, few_values, equal, mostly_equal)
    seen: dict[str, Any] = {"ranks": 0, "moments": 0, "wrong ranks": [], "wrong moments": []}
    for kind, (x_fmt, base_fmt), n in itertools.product(
        kinds, itertools.product(FORMATS, repeat=2), (1, 7, 2051, 70_003)
    ):
        x, base = kind(x_fmt, n, 1), kind(base_fmt, n, 2)
        with np.errstate(all="ignore"):
            wide = [to_torch(fmt, bits).float().numpy() for fmt, bits in ((x_fmt, x), (base_fmt, base))]
            order = np.sort((wide[0] - wide[1]).view(np.uint32) & np.uint32(0x7FFFFFFF))[::-1].view(np.float32)
        for skew in ((0, 0), (3, 3), (0, 1)) if n < 10_000 else ((2, 2),):
            given = placed(x_fmt, x, skew[0]), placed(base_fmt, base, skew[1])
            for k in {1, 2, n // 5, n // 2, n - 1, n} & set(range(1, n + 1)):
                found, want = cuda_combine.kth_largest_difference(*given, k), order[k - 1]
                seen["ranks"] += 1
                if not (found == want or (np.isnan(found) and np.isnan(want))):
                    seen["wrong ranks"].append(
                        [kind.__name__, x_fmt.name, base_fmt.name, n, skew, k, found, float(want)]
                    )

    def cpu_moments(operands: list[Any], n: int) -> Moments:
        parts = []
        for first in range(0, n, PIECE):
            moved = [x and (x[0], first * x[0].itemsize, x[2]) for x in operands]
            parts.append(_cpu.moments(*moved, min(PIECE, n - first), "scalar"))
        return total(parts)

    sizes = (1, 15, 16, 17, 1023, 1024, 1025, 5001)
    cases: list[tuple[Any, ...]] = list(itertools.product(kinds, mixed_formats(), sizes))
    cases += [(moderate_bits, (FORMATS[0],) * 3, PIECE), (moderate_bits, FORMATS, PIECE + 3001)]
    cuda_combine._PIECES_AT_A_TIME = 1
    for kind, formats, n in cases:
        bits = [kind(fmt, n, seed) for seed, fmt in enumerate(formats)]
        tensors = [placed(fmt, values, seed) for seed, (fmt, values) in enumerate(zip(formats, bits))]
        for with_base in (False, True):
            operands = [(values, 0, fmt.code) for fmt, values in zip(formats, bits)]
            want = cpu_moments(operands if with_base else [*operands[:2], None], n)
            got = cuda_combine.moments(tensors[0], tensors[1], tensors[2] if with_base else None)
            seen["moments"] += 1
            if not np.array_equal(np.array(got), np.array(want), equal_nan=True):
                seen["wrong moments"].append([kind.__name__, [f.name for f in formats], n, with_base, got, want])
    fake.calls()
    x = placed(FORMATS[0], moderate_bits(FORMATS[0], 70_003, 1), 0)
    cuda_combine.kth_largest_difference(x, x, 5)
    cuda_combine.moments(x, x, None)
    seen["calls"] = launches(fake)
    return seen


def mixed_formats() -> list[Any]:
    """Some of the triples of formats: each format in each place."""
    from ..bits import FORMATS

    return [tuple(FORMATS[(i * step + start) % 3] for i in range(3)) for step in (0, 1, 2) for start in range(3)]


def combined(method: str, base: list[Any], models: list[Any], parameters: dict[str, Any]) -> Any:
    return mi_kernels.combine(models, method, **({"base": base[0]} if base else {}), **parameters)


def combine_methods(_cuda: Any, fake: Fake) -> dict[str, Any]:
    """mi_kernels.combine of host tensors that pose as CUDA tensors, by every method."""
    import torch

    from mi_kernels.backends import dispatch
    from mi_kernels.ops import combining

    from ..methods import drawn_cases

    wrap = posing()
    copies: list[str] = []
    dispatch.this_machine = lambda kind: dispatch.Machine(cuda=None)  # type: ignore[assignment]
    plain = torch.Tensor.cpu

    def noted(self: Any) -> Any:
        copies.append(str(self.shape))
        return plain(self)

    def lerp(a: Any, b: Any, lam: float, out: Any, threads: Any) -> Any:  # its launches have a test of their own
        interpolated.append(lam)
        out.as_subclass(torch.Tensor).copy_(mi_kernels.lerp(*(x.as_subclass(torch.Tensor) for x in (a, b)), lam))
        return out

    interpolated: list[float] = []
    torch.Tensor.cpu = noted  # type: ignore[assignment,method-assign]
    seen: dict[str, Any] = {"wrong": [], "launches": {}, "copies": copies}
    for case, (method, with_base, count, parameters) in drawn_cases(2).items():
        for dtypes in ((torch.bfloat16,), (torch.float32, torch.bfloat16, torch.float16)):
            generator = torch.Generator().manual_seed(len(case))
            tensors = [
                torch.randn(3001, generator=generator).to(dtypes[i % len(dtypes)]) for i in range(with_base + count)
            ]

            base = [tensors[0]] if with_base else []
            want = combined(method, base, tensors[with_base:], parameters)
            fake.calls()
            combining.lerp = lerp
            wrapped = [wrap(x) for x in tensors]
            got = combined(method, wrapped[: len(base)], wrapped[with_base:], parameters)
            combining.lerp = mi_kernels.lerp
            if not interpolated:
                seen["launches"][f"{case} {len(dtypes)}"] = launches(fake)
            interpolated.clear()
            if not torch.equal(got.as_subclass(torch.Tensor).view(torch.uint8), want.view(torch.uint8)):
                seen["wrong"].append([case, len(dtypes)])
    return seen


def main() -> None:
    scenario, libcuda, extension = sys.argv[1:]
    fake = Fake(libcuda)  # loaded under its soname, libcuda.so.1, which is then the one the extension finds
    print(json.dumps(globals()[scenario](load_extension(extension), fake)))


if __name__ == "__main__":
    main()
