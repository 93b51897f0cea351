"""Runs engines in separate processes: starts them, distributes the requests, and explains why one died."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..errors import EngineError
from . import Completion, Options, Request, refuses_pairs
from .diagnosis import memory_line
from .installed import check_installed, environments, vllm_on_cpu
from .live_pair import LivePair, NotLiveError
from .live_session import REMEDY, LiveSession, check_loadable, own_engine, planned
from .merged_files import MergedFiles
from .model_folder import kv_bytes_per_token, weight_bytes

LOG = logging.getLogger("eval")

_BACKENDS = {
    "vllm": "eval.engines.vllm_engine:VllmBackend",
    "transformers": "eval.engines.transformers_engine:TransformersBackend",
}
_MORE_MEMORY = (
    "Lower --max-num-seqs or --max-tokens, change --gpu-memory-utilization (--kv-cache-memory on the CPU), or spread "
    "the model over GPUs with --tensor-parallel."
)
_NO_MEMORY = "the engine ran out of memory"
_STOP_SECONDS = 5
_CPU_SEQUENCES = 64


class Processes:
    """An `Engine` of `options.engines` processes of one kind.

    Each gets a share of the requests at the start and a further request for each response, so that all end together.
    If one dies, the others generate what it had not finished.

    Args:
        backend: the class that runs in each, as MODULE:CLASS; by default that of `options.kind`.
    """

    def __init__(self, options: Options, backend: str | None = None) -> None:
        if backend is None:
            check_installed(options.kind)
        self._options = options
        self._backend = backend or _BACKENDS[options.kind]
        self._on_cpu = options.kind != "vllm" or vllm_on_cpu()
        self._workers: list[_Worker] = []
        self._running: dict[_Worker, list[int]] = {}
        self._session: LiveSession | None = None
        self._opened: Mapping[str, Any] = {}
        self._generating = False

    def refuses_pairs(self) -> str:
        return refuses_pairs(self._options)

    def open(self, model: str | LivePair, length: int) -> Mapping[str, Any]:
        if self._generating:  # what the processes still generate is not wanted any more
            self.close()
        if not isinstance(model, LivePair):
            return self._open_folder(model, length)
        if why := self.refuses_pairs():
            raise NotLiveError(why, REMEDY)
        pair = model.absolute()
        merged = planned(pair)
        if (folder := own_engine(pair, merged)) is not None:
            return self._open_folder(folder, length)
        session, complete = self._session, len(self._workers) == self._options.engines
        if session is not None and complete and session.becomes(pair, merged, length):
            return self._set(session, pair, merged)
        return self._open_pair(pair, merged, length)

    def _open_folder(self, model: str, length: int) -> Mapping[str, Any]:
        self._end_session()
        if not self._on_cpu or len(self._workers) < self._options.engines:
            self.close()  # only the end of a process surely frees a GPU's memory; and one of them may have died
        if not self._workers:
            self._start(weight_bytes(model))
        return self._load(model, os.path.basename(model), length, self._worker_options(model, length))

    def _open_pair(self, pair: LivePair, merged: MergedFiles, length: int) -> Mapping[str, Any]:
        before = self._session
        if before is not None and before.holds(pair):
            length = max(length, before.length)
        self._end_session()
        if not self._on_cpu or len(self._workers) < self._options.engines:
            self.close()
        try:
            return self._load_pair(pair, merged, length, "device")
        except NotLiveError as error:
            if self._on_cpu or not error.problem.startswith(_NO_MEMORY):
                raise
            LOG.warning("%s; trying again with the two models in host memory", error.problem)
            return self._load_pair(pair, merged, length, "host")

    def _load_pair(self, pair: LivePair, merged: MergedFiles, length: int, resident: str) -> Mapping[str, Any]:
        session = self._session = LiveSession(pair, merged, length)
        model = session.model(pair, merged, resident)
        name = f"{os.path.basename(session.instruct)} and {os.path.basename(session.thinking)}"
        try:
            check_loadable(model)
            if not self._workers:
                self._start(weight_bytes(session.instruct))
            self._opened = self._load(model, name, length, self._worker_options(session.instruct, length))
        except EngineError as error:
            self.close()
            raise NotLiveError(error.problem, error.remedy) from error
        return self._opened

    def _set(self, session: LiveSession, pair: LivePair, merged: MergedFiles) -> Mapping[str, Any]:
        """Changes the weights in every process. One that fails is stopped, because nobody knows what it holds."""
        for worker in self._workers:
            worker.send([{"set": session.change(pair, merged)}])
        failed: dict[_Worker, EngineError] = {}
        for worker in self._workers:
            try:
                worker.receive()
            except EngineError as error:
                failed[worker] = error
        refused = [error for error in failed.values() if isinstance(error, NotLiveError)]
        if refused and len(refused) == len(self._workers):  # no weight has changed
            raise refused[0]
        for worker, error in failed.items():
            self._workers.remove(worker)
            worker.stop()
            if self._workers:
                LOG.warning("%s (log: %s); the other engines generate its responses", error.problem, worker.log)
        if not self._workers:
            self.close()
            raise error
        return {**self._opened, "settings": {**self._opened["settings"], "engines": len(self._workers)}}

    def _start(self, weights: int) -> None:
        self._workers = [
            _Worker(self._backend, i, environment)
            for i, environment in enumerate(environments(self._options, self._on_cpu, weights))
        ]

    def _load(
        self, model: str | Mapping[str, Any], name: str, length: int, options: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        for worker in self._workers:
            LOG.info("starting %s with %s; log: %s", self._options.kind, name, worker.log)
            worker.send([{"open": {"model": model, "length": length, "options": options}}])
        answers = [worker.receive() for worker in self._workers]
        opened: Mapping[str, Any] = answers[0]["opened"]
        return {**opened, "settings": {**opened["settings"], "engines": len(self._workers)}}

    def _worker_options(self, model: str, length: int) -> dict[str, Any]:
        options = {**asdict(self._options), "on_cpu": self._on_cpu}
        if self._on_cpu and options["max_num_seqs"] is None:
            options["max_num_seqs"] = _CPU_SEQUENCES
        if self._on_cpu and options["kv_cache_memory"] is None:
            options["kv_cache_memory"] = cpu_cache_bytes(
                kv_bytes_per_token(model) * length, options["max_num_seqs"], len(self._workers)
            )
        return options

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        self._generating = True
        yield from self._generate(requests)
        self._generating = False

    def _generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        answers: queue.Queue[tuple[_Worker, dict[str, Any] | EngineError]] = queue.Queue()
        waiting = deque(requests)
        share = math.ceil(len(requests) / (1 if len(self._workers) == 1 else 2 * len(self._workers)))
        assigned: dict[_Worker, dict[int, Request]] = {}

        def assign(worker: _Worker, count: int) -> None:
            given = [waiting.popleft() for _ in range(min(count, len(waiting)))]
            assigned[worker].update({request.index: request for request in given})
            if given:  # together, so that a backend that works in batches always makes the same ones
                worker.send([{"requests": [asdict(request) for request in given]}])

        for worker in self._workers:
            if waiting:
                assigned[worker] = {}
                worker.start(answers)
                assign(worker, share)
        ended: set[_Worker] = set()
        error: EngineError | None = None
        while assigned:
            for worker in assigned.keys() - ended:
                if not waiting and not assigned[worker] and not any(assigned.values()):
                    worker.send([{"end": True}])  # not before all are finished: another may die
                    ended.add(worker)
            worker, answer = answers.get()
            if isinstance(answer, EngineError):
                error = answer
                self._running.pop(worker, None)
                waiting.extendleft(reversed(assigned.pop(worker).values()))
                self._workers.remove(worker)
                worker.stop()
                if assigned and waiting:
                    LOG.warning("%s (log: %s); the other engines generate its responses", error.problem, worker.log)
                    for i, other in enumerate(sorted(assigned, key=lambda w: len(assigned[w]))):
                        assign(other, math.ceil(len(waiting) / (len(assigned) - i)))
            elif "done" in answer:
                if assigned[worker].pop(answer["done"]["index"], None) is not None:
                    assign(worker, 1)
                yield Completion(**answer["done"])
            elif "running" in answer:
                self._running[worker] = answer["running"]
            else:
                del assigned[worker]
                self._running.pop(worker, None)
        if waiting:
            assert error is not None
            raise error

    def running(self) -> list[int]:
        """The tokens of each response in flight, a few seconds ago."""
        return [tokens for lengths in self._running.values() for tokens in lengths]

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers = []
        self._running = {}
        self._generating = False
        self._end_session()

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def cpu_cache_bytes(sequence: int, sequences: int, engines: int) -> int:
    """Bytes of KV cache for `sequences` responses of `sequence` bytes each, at most a third of the free memory.

    At least 256 MiB, and at least one complete response: vLLM refuses less.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (3 * engines)
    return max(1 << 28, sequence + (sequence >> 3), min(sequence * sequences, free))


class _Worker:
    """One engine process, its pipes and its log."""

    def __init__(self, backend: str, number: int, environment: Mapping[str, str]) -> None:
        self._failed_once = False
        self._listener: threading.Thread | None = None
        descriptor, self.log = tempfile.mkstemp(prefix=f"mi-eval-engine-{number}-", suffix=".log")
        with os.fdopen(descriptor, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "eval.engines.worker", backend],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # this process handles Ctrl-C; one kill ends the engine's children
            )

    def send(self, orders: Sequence[Mapping[str, Any]]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process has died: `receive` reports how
            self._process.stdin.writelines(json.dumps(order) + "\n" for order in orders)
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            EngineError: the engine failed or died.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise self._failed(**answer["failed"])
        return answer

    def start(self, answers: queue.Queue[tuple[_Worker, dict[str, Any] | EngineError]]) -> None:
        """Starts generating: `send` requests, then the end. Its answers, or an EngineError, arrive in `answers`."""

        def listen() -> None:
            while True:
                try:
                    answer = self.receive()
                except EngineError as error:
                    answers.put((self, error))
                    return
                answers.put((self, answer))
                if "finished" in answer:
                    return

        self.send([{"generate": True}])

        self._listener = threading.Thread(target=listen, daemon=True)
        self._listener.start()

    def _failed(self, kind: str, text: str) -> EngineError:
        self._failed_once = True
        memory = text if kind == "memory" else memory_line(self._log_lines()) if kind == "error" else None
        if memory is not None:
            return EngineError(f"{_NO_MEMORY}: {memory}", f"{_MORE_MEMORY} Its log: {self.log}.")
        if kind == "pair":
            return NotLiveError(text, REMEDY)
        if kind == "refusal":
            return EngineError(text, f"The engine's log: {self.log}.")
        return EngineError(f"the engine failed: {text}", f"Its log: {self.log}.")

    def _died(self) -> EngineError:
        self._failed_once = True
        status = self._process.wait()
        lines = self._log_lines()
        memory = memory_line(lines)
        if status == -signal.SIGKILL or memory:
            return EngineError(
                f"an engine process died: {memory or 'killed (SIGKILL), probably by the system for lack of memory'}",
                f"{_MORE_MEMORY} Its log: {self.log}.",
            )
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        words = f": {lines[-1][:200]}" if lines else ""
        return EngineError(f"an engine process died ({how}){words}", f"Its log: {self.log}.")

    def _log_lines(self) -> list[str]:
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file if line.strip()]

    def stop(self) -> None:
        """Ends the process and its children immediately. Keeps the log if it failed."""
        assert self._process.stdin is not None
        keep_log = self._failed_once
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._listener is not None and self._listener is not threading.current_thread():
            self._listener.join()  # it reads the log when the process ends
        if not keep_log:
            os.unlink(self.log)
