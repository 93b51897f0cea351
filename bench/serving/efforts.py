"""A server whose requests choose lam: is every response that of its merge, how long do they wait, what does it cost?

    python -m bench.serving.efforts   # the tiny pair of eval/; needs an environment with vLLM
    python -m bench.serving.efforts --json bench/results/serving-efforts.json

load: 8 clients send 200 requests, with three efforts mixed, to `mi-kernels serve --effort`. Each response is compared
with the one of the merged folder at its lam, which vLLM generates in another process. Rows: seconds from request to
response, seconds of that waiting for the turn, responses in each group, changes of the weights.

overhead: seconds for the same requests at one constant lam, of a server with `--effort` and of one without. Both
servers run at the same time, and get the requests alternately. One of them is idle while the other one is timed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mi_kernels

from .. import results
from ..models import parser
from ..noise import ratios, show, spread
from ..registry import Benchmark

ROOT = Path(__file__).parents[2]
PAIR = (str(ROOT / "eval/tiny_pair/instruct"), str(ROOT / "eval/tiny_pair/thinking"))
EFFORTS = {"low": 0.2, "medium": 0.55, "high": 0.9}
TOKENS = 64
CLIENTS = 8
ENGINE = (
    *("--dtype", "bfloat16", "--enforce-eager", "--kv-cache-memory-bytes", "134217728", "--max-model-len", "384"),
    *("--no-enable-chunked-prefill", "--no-enable-prefix-caching"),
)
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "PYTHONPATH": os.pathsep.join([str(ROOT / "eval/engines/startup"), str(ROOT)]),
}


class Asked(NamedTuple):
    """A request: its number, the effort that it chooses, and the problem."""

    number: int
    effort: str
    prompt: str


def main(argv: Sequence[str] | None = None) -> None:
    options = parser("bench.serving.efforts", __doc__, rounds=5)
    options.add_argument("--requests", type=int, default=200, metavar="N", help="of the load (default: 200)")
    arguments = options.parse_args(argv)
    asked = requests(arguments.requests)
    with tempfile.TemporaryDirectory() as folder:
        expected = reference(Path(folder), sorted({one.prompt for one in asked}))
        with server(Path(folder), "--effort", ",".join(f"{k}={v}" for k, v in EFFORTS.items())) as url:
            rows = load(url, asked, expected)
            with server(Path(folder)) as plain:
                rows += overhead(url, plain, asked[:64], arguments.rounds)
    print(table(rows))
    if arguments.json:
        command = results.command_line("bench.serving.efforts", sys.argv[1:] if argv is None else argv)
        settings = {"efforts": EFFORTS, "clients": CLIENTS, "requests": len(asked), "tokens": TOKENS, "device": "cpu"}
        results.save(arguments.json, results.record("efforts", command, settings, rows))


def requests(count: int) -> list[Asked]:
    from eval.benchmarks import chains

    prompts = [problem.prompt for problem in chains.load(None)][:24]
    names = list(EFFORTS)
    return [Asked(i, names[(i * 7 + i // 5) % len(names)], prompts[i % len(prompts)]) for i in range(count)]


def reference(folder: Path, prompts: Sequence[str]) -> dict[tuple[str, str], str]:
    """The responses of merged folders, by effort and prompt, from a process of its own."""
    lams = list(EFFORTS.values())
    mi_kernels.sweep_checkpoint(*PAIR, str(folder / "mi-{lam}"), lams, progress=False)
    folders = [str(folder / f"mi-{lam:g}") for lam in lams]
    words = json.dumps({"folders": folders, "prompts": list(prompts), "tokens": TOKENS})
    command = [sys.executable, "-m", "bench.programs.responses"]
    env = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(command, input=words, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the reference failed:\n{done.stderr[-4000:]}")
    texts = json.loads(done.stdout.splitlines()[-1])
    return {(name, prompt): text for name, row in zip(EFFORTS, texts) for prompt, text in zip(prompts, row)}


@contextmanager
def server(folder: Path, *words: str) -> Iterator[str]:
    """`mi-kernels serve` on a free port; yields its address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    program = "import sys; from mi_kernels.cli import main; sys.exit(main())"
    first = str(EFFORTS["low"])
    command = [sys.executable, "-c", program, "serve", *PAIR, "--lam", first, "--port", str(port), *words]
    with (folder / f"server-{port}.log").open("w+") as log:
        process = subprocess.Popen([*command, "--", *ENGINE], env={**os.environ, **ENVIRONMENT}, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            while not _answers(f"{url}/health"):
                if process.poll() is not None:
                    raise SystemExit(f"the server failed:\n{Path(log.name).read_text()[-4000:]}")
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def load(url: str, asked: Sequence[Asked], expected: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    """Sends the load and checks every response.

    Raises:
        SystemExit: a response is lost, or is not that of its merge.
    """
    ask(url, asked[0])  # the first request of a server is slower
    before = metrics(url)
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda one: _timed(url, one), asked))
    seconds = time.perf_counter() - began
    found = {name: value - before.get(name, 0.0) for name, value in metrics(url).items()}
    wrong = [
        one.number
        for one, (_, answer) in zip(asked, answers)
        if answer["choices"][0]["message"]["content"] != expected[one.effort, one.prompt]
        or answer["mi_kernels"] != {"lam": EFFORTS[one.effort], "effort": one.effort}
    ]
    if wrong:
        raise SystemExit(f"{len(wrong)} of {len(asked)} responses are not those of their merge: {wrong[:10]}")
    changes = found["mi_kernels_lam_changes_total"]
    return [
        {"group": "load", "name": "all requests", "figure": seconds},
        {"group": "load", "name": "one request", "figure": spread([took for took, _ in answers])},
        {
            "group": "load",
            "name": "its wait for the turn, mean",
            "figure": found["mi_kernels_lam_wait_seconds_sum"] / len(asked),
        },
        {"group": "load", "name": "changes of lam", "figure": changes},
        {"group": "load", "name": "responses per change", "figure": len(asked) / changes},
        {"group": "load", "name": "wrong or lost responses", "figure": 0},
    ]


def overhead(url: str, plain: str, asked: Sequence[Asked], rounds: int) -> list[dict[str, Any]]:
    constant = [one._replace(effort="low") for one in asked]

    def once(where: str, chosen: bool) -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda one: ask(where, one, chosen), constant))
        return time.perf_counter() - began

    once(url, True), once(plain, False)
    pairs = [(once(url, True), once(plain, False)) for _ in range(rounds)]
    with_efforts, without = zip(*pairs)
    return [
        {"group": "overhead", "name": "with --effort, one lam", "figure": spread(with_efforts)},
        {"group": "overhead", "name": "without", "figure": spread(without)},
        {"group": "overhead", "name": "ratio", "figure": ratios(with_efforts, without)},
    ]


def ask(url: str, one: Asked, choose: bool = True) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": PAIR[0],
        "messages": [{"role": "user", "content": one.prompt}],
        "max_tokens": TOKENS,
        "temperature": 0,
        **({"reasoning_effort": one.effort} if choose else {}),
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        content: dict[str, Any] = json.load(answer)
    return content


def _timed(url: str, one: Asked) -> tuple[float, dict[str, Any]]:
    began = time.perf_counter()
    answer = ask(url, one)
    return time.perf_counter() - began, answer


def metrics(url: str) -> dict[str, float]:
    """Our Prometheus metrics, by name."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(mi_kernels\w+) (\S+)$", text, re.MULTILINE)}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds, counts and the ratio."""
    return results.table(
        ["", "seconds, or a number (min - max)"],
        [
            [
                f"{row['group']}: {row['name']}",
                show(row["figure"], 1, 3) if isinstance(row["figure"], dict) else f"{row['figure']:.4g}",
            ]
            for row in rows
        ],
    )


# No step of `bench.all`: it needs an environment with vLLM.
BENCHMARK = Benchmark(name="efforts", command="bench.serving.efforts", table=table)

if __name__ == "__main__":
    main()
