"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from mi_kernels import _cpu

# Examples differ widely in what they build; a deadline on each would be a test of the machine's load.
settings.register_profile("mi_kernels", deadline=None, print_blob=True)
settings.load_profile("mi_kernels")


def pytest_configure() -> None:
    # A background job of a shell starts with SIGINT ignored, and so would every process that a test interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", params=_cpu.isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Each ISA of this machine in turn."""
    return request.param


@pytest.fixture
def flush_denormals() -> Iterator[None]:
    """This thread flushes subnormals to zero, as torch can be asked to, until the test ends."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    yield
    torch.set_flush_denormal(False)


def pytest_report_header() -> str:
    """What the results were compared on."""
    return f"ISAs: {', '.join(_cpu.isas())}; torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"
