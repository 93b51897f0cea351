"""Run tasks on a Ray cluster, and run a task again if its worker or its node dies.

Entering a `Cluster` imports Ray. This module does not depend on what the tasks do: `integrations.ray.merge` writes
shards with it, and `eval` evaluates models.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from ...errors import ArgumentError, ClusterError, counted
from ...system import interrupts
from ...system.packages import install
from ...system.progress import say

ATTEMPTS = 4  # of a task; `Cluster.run` fails if the last one fails
SETTINGS = {  # environment variables that Ray reads when it is imported
    "RAY_USAGE_STATS_ENABLED": "0",  # a merge sends no usage statistics
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # otherwise Ray prints dead workers to stdout; `_lost` reports them on stderr
}
_HERE = {"auto": "the Ray cluster of this machine", "local": "a new Ray cluster on this machine"}
_POLL = 0.5  # seconds between checks of the nodes and of the user's signals
_CONNECT = 10.0  # seconds that the head node may take to answer
_STOP = 60.0  # seconds that a cancelled task may take to end


class Node(NamedTuple):
    """A live node of the cluster: its name, and the number of CPUs and GPUs that it offers to Ray."""

    name: str
    cpus: int
    gpus: int


class Tasks(Protocol):
    """The work for a cluster: one call of a function for each key."""

    def arguments(self, key: str) -> tuple[Any, ...]:
        """Returns the arguments of the call for `key`. Called for each attempt."""

    def done(self, key: str, result: Any) -> None:
        """Handles the result of the call for `key`."""

    def lost(self, key: str) -> None:
        """Cleans up after the call for `key` has died, or makes it end. May be called several times."""


class Cluster:
    """Context manager that connects to a Ray cluster.

    If this process is already connected to a cluster, this connection is used.

    Args:
        address: "auto" for the cluster of this machine, HOST:PORT of the head node, or "local" for a cluster on the
            cores of this machine that ends with the context.
        tell: called with sentences for the user; None prints them on stderr.

    Raises:
        ArgumentError: Ray is not installed, or the address is invalid.
        ClusterError: no cluster answers at the address.
    """

    patience = 60.0  # seconds to wait if no node can run a task
    settling = 3.0  # seconds until Ray reports what a finished task has freed: our own, of the step before, too

    def __init__(self, address: str, tell: Callable[[str], None] | None = None) -> None:
        self._address = address
        self.tell = tell or (lambda text: say(f"note: {text}"))
        self._mine = False

    def __enter__(self) -> Cluster:
        _check_address(self._address, self.tell)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError as error:
            raise ArgumentError(
                f"--ray needs Ray, which cannot be imported: {error}", f"Run {install('ray')}."
            ) from error
        if not ray.is_initialized():
            if self._address in _HERE:
                self.tell(f"waiting for {_HERE[self._address]}")
            self._connect(ray)
        return self

    def _connect(self, ray: Any) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level="ERROR", configure_logging=True)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ClusterError(
                f"--ray {self._address}: cannot connect to a Ray cluster: {' '.join(str(error).split())[:200]}",
                "Start a cluster with `ray start` and the same versions of Ray and Python, or use --ray local.",
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread() and handler is not None:
                signal.signal(signal.SIGTERM, handler)  # Ray's handler would end this process without cleaning up
        self._mine = True

    def __exit__(self, *_: object) -> None:
        if self._mine:
            import ray

            ray.shutdown()
            self._mine = False

    def nodes(self) -> list[Node]:
        """Returns the live nodes that offer CPUs or GPUs, sorted by name."""
        import ray

        found = []
        for node in ray.nodes():
            resources = node["Resources"]
            cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
            if node["Alive"] and (cpus or gpus):
                found.append(Node(node["NodeName"], cpus, gpus))
        return sorted(found)

    def run(
        self,
        function: Callable[..., Any],
        keys: Iterable[str],
        tasks: Tasks,
        *,
        cpus: int = 1,
        gpus: int = 0,
        again: bool = True,
    ) -> None:
        """Calls `function` for every key, each call on a node with `cpus` CPUs and `gpus` GPUs free.

        When this method returns or raises, also after Ctrl-C, no task is running.

        Args:
            function: a function in a module that every node can import.
            keys: one call is made for each key.
            tasks: provides the arguments and handles the results.
            cpus, gpus: the CPUs and GPUs of one call.
            again: whether a worker process may run several tasks.

        Raises:
            ClusterError: a task died `ATTEMPTS` times, or no node can run it.
            Exception: the exception that a call raised.
        """
        import ray

        remote = ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=0,  # this loop starts another attempt, so that it does not see the files of the first one
            max_calls=0 if again else 1,
            scheduling_strategy="SPREAD",
        )(function)
        keys = list(keys)
        self.tell_what_is_missing(ray, len(keys), cpus, gpus)
        running: dict[Any, str] = {}
        attempts: dict[str, int] = {}
        watch = _Watch(self, cpus, gpus)

        def start(key: str) -> None:
            attempts[key] = attempts.get(key, 0) + 1
            with interrupts.held():
                running[remote.remote(*tasks.arguments(key))] = key

        try:
            for key in keys:
                start(key)
            while running:
                with interrupts.held():  # Ray would lose an exception from a signal handler
                    ready, _ = ray.wait(list(running), timeout=_POLL)
                    outcomes = [(reference, _outcome(ray, reference)) for reference in ready]
                watch.check(bool(ready))
                for reference, outcome in outcomes:
                    if isinstance(outcome, ray.exceptions.RayTaskError):
                        raise _raised(outcome) from outcome
                    key = running.pop(reference)
                    if isinstance(outcome, ray.exceptions.RayError):
                        self._lost(key, outcome, attempts[key], tasks)
                        start(key)
                    else:
                        tasks.done(key, outcome)
        except BaseException:
            with interrupts.held():
                for key in running.values():  # before cancelling, so that running tasks notice it and end
                    tasks.lost(key)
                _stop(ray, list(running))
                for key in running.values():
                    tasks.lost(key)
            raise

    def tell_what_is_missing(self, ray: Any, calls: int, cpus: int, gpus: int) -> None:
        """Says that tasks wait until other programs free CPUs or GPUs, if fewer are free than one task needs."""
        fitting = [node for node in self.nodes() if node.cpus >= cpus and node.gpus >= gpus]
        if not calls or not fitting:  # `_Watch` reports that no node fits
            return
        settled = time.monotonic() + self.settling
        while (free := ray.available_resources()).get("CPU", 0) < cpus or free.get("GPU", 0) < gpus:
            if time.monotonic() >= settled:
                nodes = counted(len(fitting), "node")
                self.tell(f"waiting until other programs free {_wanted(cpus, gpus)} on one of {nodes}")
                return
            time.sleep(0.1)

    def _lost(self, key: str, error: Exception, attempt: int, tasks: Tasks) -> None:
        tasks.lost(key)
        why = type(error).__name__
        if attempt == ATTEMPTS:
            raise ClusterError(
                f"{key}: its worker died {ATTEMPTS} times, the last time with {why}",
                "Fix the cluster, and run the same command again: it resumes the work.",
            ) from error
        self.tell(f"{key}: its worker died ({why}); starting attempt {attempt + 1} of {ATTEMPTS}")


def _check_address(address: str, tell: Callable[[str], None]) -> None:
    """Checks an address before Ray does, which would try to connect for minutes. Tells the user what it waits for.

    Raises:
        ArgumentError: `address` is invalid.
        ClusterError: no program listens at the address.
    """
    if address in _HERE:
        return
    if address.startswith("ray://"):
        raise ArgumentError(
            f"--ray {address}: addresses of Ray client servers (ray://) are not supported",
            "Run the command on a node of the cluster, with --ray auto.",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ArgumentError(
            f"--ray {address!r} is not a valid address", "Use auto, local, or HOST:PORT of the head node."
        )
    tell(f"waiting for the Ray cluster at {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
    except OSError as error:
        raise ClusterError(
            f"--ray {address}: cannot connect: {error.strerror or error}",
            "Use the address that `ray start --head` printed, or --ray local.",
        ) from error


class _Watch:
    """Detects that no node can run a task. Ray itself would wait forever."""

    def __init__(self, cluster: Cluster, cpus: int, gpus: int) -> None:
        self._cluster, self._cpus, self._gpus = cluster, cpus, gpus
        self._seen = time.monotonic()
        self._waiting = False

    def check(self, progress: bool) -> None:
        """Checks the nodes, unless tasks have made progress.

        Raises:
            ClusterError: no node has been large enough for `Cluster.patience` seconds.
        """
        nodes = [] if progress else self._cluster.nodes()
        if progress or any(n.cpus >= self._cpus and n.gpus >= self._gpus for n in nodes):
            self._seen, self._waiting = time.monotonic(), False
            return
        wanted, patience = _wanted(self._cpus, self._gpus), self._cluster.patience
        alive = ", ".join(f"{n.name}: {n.cpus} CPUs, {n.gpus} GPUs" for n in nodes) or "none"
        if not self._waiting:
            self._waiting = True
            self._cluster.tell(f"waiting up to {patience:g} s for a node with {wanted}; live nodes: {alive}")
        if time.monotonic() - self._seen > patience:
            raise ClusterError(
                f"no node of the cluster has {wanted}; live nodes: {alive}",
                "Add nodes, or use fewer --threads, and run the same command again: it resumes the work.",
            )


def _wanted(cpus: int, gpus: int) -> str:
    """Returns the resources of a task in words."""
    cores = f"{cpus} CPU{'s' if cpus != 1 else ''}"
    return cores + (f" and {gpus} GPU{'s' if gpus != 1 else ''}" if gpus else "")


def _outcome(ray: Any, reference: Any) -> Any:
    """Returns the result of a call that has ended, or the RayError that ended it."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return error


def _raised(error: Any) -> BaseException:
    """Returns the exception that a call raised, or a ClusterError if a node could not import the function."""
    if "failed to import" in str(error) or "No module named" in str(error):
        return ClusterError(
            f"a node of the cluster cannot import this program: {str(error).splitlines()[-1][:200]}",
            "Install the same version of mi_kernels on every node.",
        )
    cause: BaseException = error.cause if isinstance(error.cause, BaseException) else error
    return cause


def _stop(ray: Any, references: list[Any]) -> None:
    """Cancels tasks that have not started, and waits until no task is running."""
    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references), timeout=_STOP)
