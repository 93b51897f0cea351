"""Take turns: requests that want the same weights run together, and the weights change between the groups.

Needs neither vLLM nor torch.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, NamedTuple, TypeVar

from ...errors import MIKernelsError
from .client import EngineError

W = TypeVar("W", bound=Hashable)


class Seen(NamedTuple):
    """What `Turns` reports about a group that begins.

    Attributes:
        changed: whether the weights changed for it. size: how many requests began together.
        waited: the seconds that each of them had waited.
    """

    changed: bool
    size: int
    waited: tuple[float, ...]


class _Waiting(NamedTuple):
    granted: asyncio.Future[None]
    since: float


class Turns(Generic[W]):
    """Lets requests that want different weights share one engine. All methods belong to one event loop.

    Requests that want the current weights begin at once. Others wait until the running ones are finished. Then the
    group whose first request has waited longest gets its turn, and all of its requests begin together. Once a request
    of another group has waited for `max_wait` seconds, no further request of the current group begins before it. So a
    request waits at most `max_wait`, and the running requests and the changes of the groups before its own.

    Args:
        change: changes the engine to the given weights. It is called only while no request runs.
        current: the weights that the engine has.
        max_wait: seconds.
        report: called when a group begins.
        clock: the time in seconds.

    Example:
        >>> import asyncio
        >>> async def main():
        ...     changes = []
        ...     async def change(wanted):
        ...         changes.append(wanted)
        ...     turns = Turns(change, 0.2, max_wait=10)
        ...     async def request(lam):
        ...         async with turns.turn(lam):
        ...             await asyncio.sleep(0)
        ...     await asyncio.gather(*map(request, [0.2, 0.8, 0.2, 0.8]))
        ...     return changes
        >>> asyncio.run(main())
        [0.8]
    """

    def __init__(
        self,
        change: Callable[[W], Awaitable[None]],
        current: W,
        max_wait: float,
        report: Callable[[Seen], None] = lambda seen: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._change, self._report, self._clock = change, report, clock
        self._max_wait = max_wait
        self._current = current
        self._running = 0
        self._groups: OrderedDict[W, list[_Waiting]] = OrderedDict()  # the first one has waited longest
        self._changing: asyncio.Task[None] | None = None
        self._broken: EngineError | None = None

    @property
    def current(self) -> W:
        """The weights that the engine has, or gets if it is changing."""
        return self._current

    @asynccontextmanager
    async def turn(self, wanted: W) -> AsyncIterator[None]:
        """Waits until the engine has the weights `wanted`, and keeps them until the block ends.

        Raises:
            ArgumentError: the engine refused these weights, and has the ones before.
            EngineError: a change failed midway, and the engine answers no more requests.
        """
        await self.begin(wanted)
        try:
            yield
        finally:
            self.end()

    async def begin(self, wanted: W) -> None:
        """Waits for a turn, as `turn`. Cancelling it gives up the place. Call `end` if it returns."""
        if self._broken is not None:
            raise self._broken
        if wanted == self._current and self._changing is None and not self._overdue(wanted):
            self._running += 1
            self._report(Seen(False, 1, (0.0,)))
            return
        waiting = _Waiting(asyncio.get_running_loop().create_future(), self._clock())
        self._groups.setdefault(wanted, []).append(waiting)
        self._next()
        try:
            await waiting.granted
        except asyncio.CancelledError:
            self._leave(wanted, waiting)
            raise

    def end(self) -> None:
        """Ends a turn that `begin` gave."""
        self._running -= 1
        self._next()

    def _overdue(self, wanted: W) -> bool:
        """Whether a request that wants something else has waited too long for requests of `wanted` to go first."""
        now = self._clock()
        return any(
            group[0].since + self._max_wait <= now for weights, group in self._groups.items() if weights != wanted
        )

    def _leave(self, wanted: W, waiting: _Waiting) -> None:
        """Takes back a request whose client has gone."""
        if waiting.granted.done() and not waiting.granted.cancelled() and waiting.granted.exception() is None:
            self._running -= 1  # it began in the moment in which the client went
        elif waiting in self._groups.get(wanted, []):
            self._groups[wanted].remove(waiting)
            if not self._groups[wanted]:
                del self._groups[wanted]
        self._next()

    def _next(self) -> None:
        """Gives the next group its turn if nothing runs."""
        if self._running or self._changing is not None or not self._groups:
            return
        # By the time of the first request that still waits: one before it may have left.
        wanted = min(self._groups, key=lambda weights: self._groups[weights][0].since)
        self._changing = asyncio.create_task(self._switch(wanted))

    async def _switch(self, wanted: W) -> None:
        changed = wanted != self._current
        failure: BaseException | None = None
        try:
            if changed:
                await self._change(wanted)
                self._current = wanted
        except MIKernelsError as error:
            failure = error
        except Exception as error:
            failure = EngineError(f"a change of the weights was not confirmed: {error}", "Restart the server.")
        finally:
            self._changing = None
        if isinstance(failure, EngineError):
            self._broken = failure
            for group in list(self._groups.values()):
                _fail(group, failure)
            self._groups.clear()
            return
        group = [waiting for waiting in self._groups.pop(wanted, []) if not waiting.granted.done()]
        if failure is not None:
            _fail(group, failure)
        else:
            now = self._clock()
            for waiting in group:
                waiting.granted.set_result(None)
            self._running += len(group)
            if group or changed:
                self._report(Seen(changed, len(group), tuple(now - waiting.since for waiting in group)))
        self._next()


def _fail(group: list[_Waiting], failure: BaseException) -> None:
    for waiting in group:
        if not waiting.granted.done():  # its client may have gone
            waiting.granted.set_exception(failure)
