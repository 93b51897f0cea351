"""Requests that want different weights take turns: who is next, what is never mixed, what happens to failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_kernels.errors import ArgumentError
from mi_kernels.integrations.vllm.client import EngineError
from mi_kernels.integrations.vllm.turns import Seen, Turns

Change = Callable[[str], Awaitable[None]]


class World:
    """An engine, a clock that tests set, and what happened in order."""

    def __init__(self, max_wait: float = 10.0, change: Change | None = None) -> None:
        self.now, self.engine = 0.0, "a"
        self.running: list[str] = []
        self.events: list[str] = []
        self.seen: list[Seen] = []
        self.turns: Turns[str] = Turns(change or self.change, "a", max_wait, self.seen.append, lambda: self.now)

    async def change(self, wanted: str) -> None:
        assert not self.running, "the weights change while a request runs"
        self.events.append(f"change {wanted}")
        await asyncio.sleep(0)
        assert not self.running, "a request began while the weights change"
        self.engine = wanted

    def request(self, wanted: str, name: str = "", end: asyncio.Event | None = None) -> asyncio.Task[None]:
        async def run() -> None:
            async with self.turns.turn(wanted):
                self.running.append(wanted)
                self.events.append(name or wanted)
                try:
                    assert self.engine == wanted
                    if end is not None:
                        await end.wait()
                    await asyncio.sleep(0)
                    assert self.engine == wanted, "the weights changed under a request"
                finally:
                    self.running.remove(wanted)

        return asyncio.create_task(run())


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(test: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def test_the_current_weights_need_no_change() -> None:
    async def test() -> None:
        world = World()
        await asyncio.gather(*(world.request("a") for _ in range(3)))
        assert world.events == ["a", "a", "a"]
        assert world.seen == [Seen(False, 1, (0.0,))] * 3

    run(test)


def test_a_change_waits_for_running_requests_and_serves_its_whole_group() -> None:
    async def test() -> None:
        world, end = World(), asyncio.Event()
        tasks = [world.request("a", "a1", end), world.request("b", "b1"), world.request("c", "c1")]
        await settle()
        world.now = 3.0
        tasks += [world.request("b", "b2"), world.request("a", "a2")]  # a2 begins at once: nobody is overdue
        await settle()
        assert world.events == ["a1", "a2"]
        end.set()
        await asyncio.gather(*tasks)
        assert world.events[2:] == ["change b", "b1", "b2", "change c", "c1"]
        assert world.seen[2] == Seen(True, 2, (3.0, 0.0))

    run(test)


def test_nobody_starves() -> None:
    """While requests of one group come without an end, those of the two others get their turns."""

    async def test() -> None:
        world = World(max_wait=5.0)
        ends = [asyncio.Event() for _ in range(20)]
        others: list[asyncio.Task[None]] = []
        tasks = []
        for i, end in enumerate(ends):
            world.now = float(i)
            tasks.append(world.request("a", f"a{i}", end))
            if i == 2:
                others = [world.request("b"), world.request("c")]
            await settle()
            if i:
                ends[i - 1].set()  # there is always one running, until the group is closed
                await settle()
        for end in ends:
            end.set()
        await asyncio.gather(*tasks, *others)
        order = world.events
        # At second 7 the others have waited for 5, and the seventh request of `a` may not begin before them.
        assert order.index("a6") < order.index("b") < order.index("c") < order.index("a7")
        assert order.count("change a") == 1

    run(test)


def test_the_group_that_waited_longest_is_next_even_if_its_first_request_left() -> None:
    async def test() -> None:
        world, end = World(), asyncio.Event()
        first = world.request("a", "a", end)
        await settle()
        left = world.request("b", "left")
        await settle()
        world.now = 1.0
        tasks = [world.request("c", "c")]
        await settle()
        world.now = 2.0
        tasks.append(world.request("b", "b"))
        await settle()
        left.cancel()
        await settle()
        end.set()
        await asyncio.gather(first, *tasks)
        assert world.events == ["a", "change c", "c", "change b", "b"]

    run(test)


def test_a_request_that_leaves_in_its_moment_frees_the_turn() -> None:
    """It is granted its turn, and its client goes before it runs again."""

    async def test() -> None:
        tasks: list[asyncio.Task[None]] = []

        async def change(wanted: str) -> None:
            pass

        def granted(seen: Seen) -> None:
            if seen.changed and len(tasks) == 1:
                tasks[0].cancel()

        turns: Turns[str] = Turns(change, "a", 10.0, granted)

        async def request(wanted: str) -> None:
            async with turns.turn(wanted):
                pass

        tasks.append(asyncio.create_task(request("b")))
        await asyncio.wait(tasks)
        assert tasks[0].cancelled()
        tasks.append(asyncio.create_task(request("a")))
        await asyncio.wait_for(tasks[1], 5)  # impossible if the place of the first one were still taken

    run(test)


def test_refused_weights_concern_their_group_only() -> None:
    async def test() -> None:
        async def change(wanted: str) -> None:
            if wanted == "bad":
                raise ArgumentError("lam is 7", "Send less.")
            await World.change(world, wanted)

        world = World(change=change)
        bad = [world.request("bad"), world.request("bad")]
        good = [world.request("b"), world.request("a")]
        results = await asyncio.gather(*bad, *good, return_exceptions=True)
        assert [type(result) for result in results] == [ArgumentError, ArgumentError, type(None), type(None)]

    run(test)


@pytest.mark.parametrize("failure", [EngineError("half changed", "Restart."), RuntimeError("the engine is gone")])
def test_a_failed_change_is_the_end_for_all(failure: Exception) -> None:
    async def test() -> None:
        async def change(wanted: str) -> None:
            raise failure

        world = World(change=change)
        results = await asyncio.gather(world.request("b"), world.request("c"), return_exceptions=True)
        assert all(isinstance(result, EngineError) for result in results)
        with pytest.raises(EngineError):  # also the weights that it had: nobody knows which ones it has now
            await world.request("a")

    run(test)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.integers(0, 9)), max_size=40),
    st.sampled_from([0.0, 2.0, 100.0]),
)
def test_any_load_is_served_whole_and_never_mixed(load: list[tuple[str, int, int]], max_wait: float) -> None:
    """Requests (what they want, after how many steps they come, how long they run); each fifth leaves early."""

    async def test() -> None:
        world = World(max_wait)

        async def come(number: int, wanted: str, after: int, length: int) -> None:
            for _ in range(after):
                await asyncio.sleep(0)
            world.now += 1
            end = asyncio.Event()
            task = world.request(wanted, end=end)
            for _ in range(length):
                await asyncio.sleep(0)
            end.set()
            if number % 5 == 4:
                task.cancel()
                await asyncio.wait([task])
            else:
                await task

        await asyncio.gather(*(come(i, *request) for i, request in enumerate(load)))
        assert not world.turns._running
        assert not world.turns._groups

    run(test)
