"""Clocks, power and temperature of the GPU while a step runs, as nvidia-smi reports them. Nothing is ever set."""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress
from typing import Any

from ..noise import spread

# The names that nvidia-smi takes, and the ones in the results.
FIELDS = {
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "power.draw": "watts",
    "temperature.gpu": "celsius",
    "utilization.gpu": "busy_percent",
}
ABOUT = ("name", "driver_version", "pcie.link.gen.max", "pcie.link.width.max", "clocks.max.sm", "clocks.max.mem",
         "power.limit", "memory.total")  # fmt: skip
_PERIOD = 200  # milliseconds between samples
Sample = dict[str, float]


def about() -> dict[str, str]:
    """The name, driver, link and limits of the first GPU; the reason in "nvidia-smi" if it cannot be asked."""
    command = ["nvidia-smi", f"--query-gpu={','.join(ABOUT)}", "--format=csv,noheader", "-i", "0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return {"nvidia-smi": str(error)}
    return dict(zip(ABOUT, map(str.strip, done.stdout.strip().split(","))))


class Monitor:
    """Samples the state of the first GPU until `stop`. Without nvidia-smi it has no samples.

    Example:
        >>> monitor = Monitor()
        >>> summary = monitor.stop()
    """

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._process: subprocess.Popen[str] | None = None
        command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits", "-i", "0"]
        with suppress(OSError):
            self._process = subprocess.Popen(
                [*command, f"--loop-ms={_PERIOD}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            values = dict(zip(FIELDS.values(), line.split(",")))
            sample = {}
            for name, text in values.items():
                with suppress(ValueError):  # "[N/A]": a card without this sensor
                    sample[name] = float(text)
            self._samples.append(sample)

    def stop(self) -> dict[str, Any]:
        """The spread of each value over the samples in which the GPU was busy; of all samples if it never was."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._reader.join()
        return summary(self._samples)


def summary(samples: list[Sample]) -> dict[str, Any]:
    """{sm_mhz: {min, median, max, rounds}, ...} of the samples with a busy GPU, or of all if there is none."""
    chosen = [sample for sample in samples if sample.get("busy_percent", 0) > 0] or samples
    columns = {name: [sample[name] for sample in chosen if name in sample] for name in FIELDS.values()}
    return {name: spread(values) for name, values in columns.items() if values}
