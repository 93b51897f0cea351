"""Work on a Ray cluster: tasks that are tried again when the worker or the node that has them dies.

Ray is imported when a `Cluster` is entered. Nothing here knows what the tasks do: `ray_merge` writes shards with them,
and `eval` evaluates models.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from ...errors import ArgumentError, ClusterError
from ...system import interrupts

ATTEMPTS = 4  # of a task; the last one's loss ends the work
SETTINGS = {  # of Ray, which reads them when it is imported
    "RAY_USAGE_STATS_ENABLED": "0",  # a merge reports to nobody
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # it would print dead workers to stdout, where a report is: `_lost` tells of them
}
_LOOK = 0.5  # seconds between two looks at the nodes, and at what the user wants
_CONNECT = 10.0  # seconds that the head may take to answer
_STOP = 60.0  # seconds that a cancelled task may take to end


class Node(NamedTuple):
    """A node that is alive: its name, and how many CPUs and GPUs it lends."""

    name: str
    cpus: int
    gpus: int


class Tasks(Protocol):
    """What a cluster is to do: one call of a function for each key."""

    def arguments(self, key: str) -> tuple[Any, ...]:
        """What the function is called with; asked for at each attempt."""

    def done(self, key: str, result: Any) -> None:
        """The call for `key` returned."""

    def lost(self, key: str) -> None:
        """The call for `key` has died, or is to end. May be called again."""


class Cluster:
    """Context manager: the connection to a Ray cluster.

    Args:
        address: "auto" for the cluster that this machine is a node of, HOST:PORT of its head, or "local" for one of
            this machine's cores that ends with the context. A connection that this process has already is used.
        tell: called with a sentence on whatever the user should know; None prints it on stderr.

    Raises:
        ArgumentError: Ray is not installed, or the address is not one.
        ClusterError: no cluster answers there.
    """

    patience = 60.0  # seconds without any node that could take a task

    def __init__(self, address: str, tell: Callable[[str], None] | None = None) -> None:
        self._address = address
        self._tell = tell or (lambda text: print(f"note: {text}", file=sys.stderr))
        self._mine = False

    def __enter__(self) -> Cluster:
        _check_address(self._address)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError as error:
            raise ArgumentError(
                f"--ray needs Ray, which cannot be imported: {error}", "pip install 'mi_kernels[ray]'"
            ) from error
        if not ray.is_initialized():
            self._connect(ray)
        return self

    def _connect(self, ray: Any) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level="ERROR", configure_logging=True)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ClusterError(
                f"--ray {self._address}: no Ray cluster can be used there: {' '.join(str(error).split())[:200]}",
                "Start one with `ray start`, of this version of Ray and Python; --ray local needs none.",
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread() and handler is not None:
                signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process where it stands
        self._mine = True

    def __exit__(self, *_: object) -> None:
        if self._mine:
            import ray

            ray.shutdown()
            self._mine = False

    def nodes(self) -> list[Node]:
        """Those that are alive and lend CPUs or GPUs, in the order of their names."""
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
        """Calls `function` for every key, each call on a node that has `cpus` and `gpus` to spare.

        Args:
            function: of a module that every node can import.
            again: whether a worker process may take another task after the first one.

        Raises:
            ClusterError: a task was lost `ATTEMPTS` times, or no node that is left could take one.
            Exception: what a call raised. In both cases, and on Ctrl-C, no task runs any more.
        """
        import ray

        remote = ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=0,  # a second attempt must not meet the first one's files, so it is asked for here
            max_calls=0 if again else 1,
            scheduling_strategy="SPREAD",
        )(function)
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
                with interrupts.held():  # an exception out of a signal's handler is lost within Ray
                    ready, _ = ray.wait(list(running), timeout=_LOOK)
                    outcomes = [(reference, _outcome(ray, reference)) for reference in ready]
                watch.look(bool(ready))
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
                for key in running.values():  # first, so that those that run notice it and end
                    tasks.lost(key)
                _stop(ray, list(running))
                for key in running.values():
                    tasks.lost(key)
            raise

    def _lost(self, key: str, error: Exception, attempt: int, tasks: Tasks) -> None:
        tasks.lost(key)
        why = type(error).__name__
        if attempt == ATTEMPTS:
            raise ClusterError(
                f"{key}: the worker that had it died {ATTEMPTS} times, the last time with {why}",
                "What is finished is kept: mend the cluster, and the same command goes on.",
            ) from error
        self._tell(f"{key}: the worker that had it died ({why}); attempt {attempt + 1} of {ATTEMPTS}")


def _check_address(address: str) -> None:
    """Ray itself would try for minutes.

    Raises:
        ArgumentError: `address` is not one.
        ClusterError: nothing listens there.
    """
    if address in ("auto", "local"):
        return
    if address.startswith("ray://"):
        raise ArgumentError(
            f"--ray {address}: is the address of a Ray client server",
            "Run the command on a node of the cluster, with --ray auto.",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ArgumentError(f"--ray {address!r} is not an address", "Give auto, local, or the head's HOST:PORT.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
    except OSError as error:
        raise ClusterError(
            f"--ray {address}: nothing answers there: {error.strerror or error}",
            "`ray start --head` starts a cluster and prints its address; --ray local needs none.",
        ) from error


class _Watch:
    """Notices when nobody is left who could take a task: Ray itself would wait for ever."""

    def __init__(self, cluster: Cluster, cpus: int, gpus: int) -> None:
        self._cluster, self._cpus, self._gpus = cluster, cpus, gpus
        self._seen = time.monotonic()

    def look(self, moves: bool) -> None:
        """Raises:
        ClusterError: no node has been large enough for `Cluster.patience` seconds.
        """
        nodes = [] if moves else self._cluster.nodes()
        if moves or any(n.cpus >= self._cpus and n.gpus >= self._gpus for n in nodes):
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > self._cluster.patience:
            wanted = f"{self._cpus} CPUs" + (f" and {self._gpus} GPUs" if self._gpus else "")
            there = ", ".join(f"{n.name}: {n.cpus} CPUs, {n.gpus} GPUs" for n in nodes) or "none"
            raise ClusterError(
                f"no node of the cluster has {wanted}; those that are alive: {there}",
                "What is finished is kept: bring nodes back, or ask for less, and the same command goes on.",
            )


def _outcome(ray: Any, reference: Any) -> Any:
    """What a call that has ended returned, or the RayError that says how it ended."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return error


def _raised(error: Any) -> BaseException:
    """What a call raised, or why it could not be made."""
    if "failed to import" in str(error) or "No module named" in str(error):
        return ClusterError(
            f"a node of the cluster cannot import this program: {str(error).splitlines()[-1][:200]}",
            "Install the same version of mi_kernels on every node.",
        )
    cause: BaseException = error.cause if isinstance(error.cause, BaseException) else error
    return cause


def _stop(ray: Any, references: list[Any]) -> None:
    """Cancels what has not begun, and waits until nothing runs any more."""
    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references), timeout=_STOP)
