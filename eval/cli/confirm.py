"""Confirms long work before most of it is done: by `--yes`, by a budget, or by an answer on the terminal."""

from __future__ import annotations

import sys

from ..errors import EvalError
from ..run.budget import Budget
from ..run.estimate import Estimate

LONG_SECONDS = 30 * 60
MANY_TOKENS = 10_000_000  # minutes on a large GPU, but dollars on a server


class NotConfirmed(EvalError):
    """The work was estimated and not confirmed."""


class Confirm:
    """A `run.session.Confirmation`.

    Args:
        yes: the user has confirmed everything. budget: if it is limited, it confirms what it covers.
    """

    def __init__(self, yes: bool, budget: Budget) -> None:
        self._always = yes or budget.limited

    def needed(self, estimate: Estimate) -> bool:
        """Whether nobody has confirmed it, and it takes half an hour, ten million tokens or the free space."""
        long = estimate.seconds is None or estimate.seconds > LONG_SECONDS
        return not self._always and (long or estimate.tokens > MANY_TOKENS or estimate.disk > estimate.free)

    def ask(self, estimate: Estimate) -> None:
        """Returns if the answer on the terminal is yes.

        Raises:
            NotConfirmed: the answer is no, there is none, or there is no terminal.
        """
        kept = "The responses that are finished are kept."
        if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()):
            raise NotConfirmed(
                f"this takes long and is not confirmed: {estimate.text}",
                f"Add --yes, or a budget such as --time 4h. {kept}",
            )
        print("Continue? [y/N] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer.endswith("\n"):
            print(file=sys.stderr)
        if answer.strip().lower() not in ("y", "yes"):
            raise NotConfirmed("stopped, since it was not confirmed", f"{kept} Run the same command again to resume.")
