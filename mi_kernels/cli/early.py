"""What commands say before and while they work: a forecast on stderr, and the kind of progress."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..system.progress import Progress, say

if TYPE_CHECKING:
    from ..merge.forecast import Forecast


def progress_of(arguments: argparse.Namespace) -> Progress:
    """Returns the progress that a command shows: none with --quiet or --json, otherwise a bar or lines."""
    return "lines" if shows(arguments) else False


def shows(arguments: argparse.Namespace) -> bool:
    """Returns whether a command says on stderr what it does."""
    return not (getattr(arguments, "quiet", False) or getattr(arguments, "json", False))


class Announcer:
    """Prints the forecast of a merge once, and refuses a merge for which the disk has too little space."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments, self._printed = arguments, False

    def early(self, forecast: Forecast) -> None:
        """Takes a forecast before a plan that is slow to make.

        Raises:
            OutputError: see `check`.
        """
        self.check(forecast)
        self.announce(self.measured(forecast))

    def measured(self, forecast: Forecast) -> Forecast:
        """Returns the forecast with the time, if the disks of this machine decide it and somebody reads it."""
        elsewhere = self._arguments.ray is not None or self._arguments.nodes is not None
        return forecast if elsewhere or self._arguments.quiet or forecast.missing else forecast.measured()

    def announce(self, forecast: Forecast) -> None:
        """Prints the forecast, unless an earlier one was printed."""
        if not self._printed:
            self._printed = True
            announce(self._arguments, forecast)

    def check(self, forecast: Forecast) -> None:
        """Raises OutputError if a disk has too little space, except in a plan for other machines (--nodes)."""
        if self._arguments.nodes is None:
            forecast.check()


def announce(arguments: argparse.Namespace, forecast: Forecast) -> None:
    """Prints a line on stderr that says what a command is about to read and write, unless --quiet or --json is set."""
    if shows(arguments):
        say(f"mi-kernels: {forecast}")
