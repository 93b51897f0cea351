"""No kernel reads or writes beyond its buffers. guard_pages.py checks this in a process that may crash."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ..support import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pages are protected as POSIX does it")


def guard_pages(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-X", "faulthandler", "-m", "tests.kernels.guard_pages", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_every_kernel_stays_within_its_buffers() -> None:
    done = guard_pages()
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 1000


def test_the_guards_hold() -> None:
    done = guard_pages("--overrun")
    # A signal, or under AddressSanitizer its report of one.
    assert done.returncode in (-signal.SIGSEGV, -signal.SIGBUS) or "SEGV" in done.stderr, done
