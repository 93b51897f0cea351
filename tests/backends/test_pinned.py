"""One block of pinned memory: exactly the bytes that are needed, pinned once, unpinned once, never under a copy."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import signal
from typing import Any

import pytest
import torch

from mi_kernels import BackendError
from mi_kernels.backends import pinned
from mi_kernels.backends.pinned import CudaPinning, PinnedArena, pinned_size

PAGE = 4096


class Driver:
    """Records calls in place of a driver."""

    def __init__(self, refuses: bool = False, broken: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._refuses, self._broken = refuses, broken

    def register(self, address: int, size: int) -> None:
        if self._refuses:
            raise RuntimeError("cuMemHostRegister_v2: out of memory")
        ctypes.string_at(address, size)  # it must be mapped
        self.calls.append(("register", address, size))

    def wait(self) -> None:
        self.calls.append(("wait",))
        if self._broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def unregister(self, address: int) -> None:
        ctypes.string_at(address, 1)
        self.calls.append(("unregister", address))

    @property
    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


def test_the_block_has_the_bytes_that_are_needed_from_a_page_on() -> None:
    driver = Driver()
    shapes: list[tuple[tuple[int, ...], torch.dtype]] = [
        ((3, 1000), torch.bfloat16), ((), torch.float32), ((0, 5), torch.float16), ((70_001,), torch.float32)
    ]  # fmt: skip
    size = pinned_size(torch.empty(shape, dtype=dtype, device="meta").nbytes for shape, dtype in shapes)
    with PinnedArena(size, driver) as arena:
        tensors = [arena.tensor(shape, dtype) for shape, dtype in shapes]
        assert [(tuple(t.shape), t.dtype) for t in tensors] == shapes
        assert all(t.is_contiguous() for t in tensors)
        [(_, address, registered)] = driver.calls
        assert (address % PAGE, registered) == (0, size)
        for number, tensor in enumerate(tensors):
            tensor.fill_(number)
            if tensor.numel():
                assert tensor.data_ptr() % 64 == 0
                assert address <= tensor.data_ptr()
                assert tensor.data_ptr() + tensor.nbytes <= address + size
        for number, tensor in enumerate(tensors):  # no tensor has overwritten another
            assert bool((tensor == number).all())
        with pytest.raises(ValueError, match="the arena has"):
            arena.tensor((100,), torch.float32)


def test_a_large_block_lies_on_huge_pages() -> None:
    driver = Driver()
    with PinnedArena(5 << 20, driver):
        assert driver.calls[0][1] % (2 << 20) == 0


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_memory_is_unpinned_once_after_pending_copies_however_it_ends(error: type[BaseException] | None) -> None:
    driver = Driver()
    with contextlib.suppress(ValueError, KeyboardInterrupt), PinnedArena(100, driver) as arena:
        tensor = arena.tensor((3,), torch.float32).fill_(7)
        if error is not None:
            raise error
    assert driver.names == ["register", "wait", "unregister"]
    assert driver.calls[2][1] == driver.calls[0][1]
    assert tensor.tolist() == [7, 7, 7]  # its memory lives as long as the tensor
    arena.close()
    del arena, tensor
    gc.collect()
    assert driver.names == ["register", "wait", "unregister"]


def test_a_closed_arena_has_no_memory() -> None:
    arena = PinnedArena(100, Driver())
    arena.close()
    with pytest.raises(ValueError, match="the arena has 0 bytes"):
        arena.tensor((1,), torch.float32)


def test_memory_that_nobody_closes_is_unpinned_before_it_is_unmapped() -> None:
    driver = Driver()
    arena = PinnedArena(100, driver)
    tensor = arena.tensor((3,), torch.float32)
    view = tensor[1:]
    del arena, tensor
    gc.collect()
    assert driver.names == ["register"]  # a tensor still needs it
    del view
    gc.collect()
    assert driver.names == ["register", "wait", "unregister"]  # `unregister` reads the memory


def test_ctrl_c_does_not_leave_the_memory_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    waited = driver.wait

    def wait() -> None:
        signal.raise_signal(signal.SIGINT)
        waited()

    monkeypatch.setattr(driver, "wait", wait)
    with pytest.raises(KeyboardInterrupt), PinnedArena(100, driver):
        pass
    assert driver.names == ["register", "wait", "unregister"]


def test_a_failed_device_does_not_hide_the_first_error() -> None:
    driver = Driver(broken=True)
    with pytest.raises(ValueError, match="the first error"), PinnedArena(100, driver):
        raise ValueError("the first error")
    assert driver.names == ["register", "wait", "unregister"]


def test_a_refusal_says_how_much_and_why() -> None:
    with pytest.raises(BackendError, match=r"cannot pin 12,345 bytes of host memory: cuMemHostRegister_v2: out of"):
        PinnedArena(12_345, Driver(refuses=True))


def test_without_a_gpu_nothing_is_registered() -> None:
    with PinnedArena(100, None) as arena:
        assert arena.tensor((2, 3), torch.float32).fill_(1).sum() == 6


class Library:
    """Stands in for libcuda: every function records its arguments."""

    def __init__(self, code: int, events: list[Any]) -> None:
        self._code, self._events = code, events

    def cuMemHostRegister_v2(self, address: Any, size: Any, flags: Any) -> int:
        self._events.append(("register", address.value, size.value, flags.value))
        return self._code

    def cuMemHostUnregister(self, address: Any) -> int:
        self._events.append(("unregister", address.value))
        return self._code

    def cuGetErrorString(self, code: int, text: Any) -> int:
        ctypes.cast(text, ctypes.POINTER(ctypes.c_char_p))[0] = b"out of memory"
        return 0


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    @contextlib.contextmanager
    def current(device: torch.device) -> Any:
        found.append(("enter", str(device)))
        yield
        found.append(("leave", str(device)))

    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: found.append(("synchronize", str(device))))
    return found


def test_the_driver_is_called_in_the_context_of_the_device(monkeypatch: pytest.MonkeyPatch, events: list[Any]) -> None:
    monkeypatch.setattr(pinned, "_driver", lambda: Library(0, events))
    pinning = CudaPinning([torch.device("cuda:1"), torch.device("cuda:0")])
    context = [("enter", "cuda:1"), ("synchronize", "None")]
    pinning.register(4096, 100)
    assert events == [*context, ("register", 4096, 100, 1), ("leave", "cuda:1")]
    events.clear()
    pinning.wait()
    assert events == [("synchronize", "cuda:1"), ("synchronize", "cuda:0")]
    events.clear()
    pinning.unregister(4096)
    assert events == [*context, ("unregister", 4096), ("leave", "cuda:1")]


def test_an_error_of_the_driver_has_its_text(monkeypatch: pytest.MonkeyPatch, events: list[Any]) -> None:
    monkeypatch.setattr(pinned, "_driver", lambda: Library(2, events))
    with pytest.raises(RuntimeError, match="cuMemHostRegister_v2: out of memory"):
        CudaPinning([torch.device("cuda:0")]).register(4096, 100)
