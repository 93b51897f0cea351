"""A file that cannot be written: every writer names it and says what to do, and what is finished is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 4096  # bytes: the system refuses to let a file of this process grow beyond them

# Runs in a process of its own, because the limit holds for every file that a process writes.
PROGRAM = f"""
import json, resource, sys
from pathlib import Path
from eval import report
from eval.run import files
from eval.run.journal import Journal, read
from eval.schema import Response, Verdict
from mi_kernels.errors import MIKernelsError
from tests.eval.support import simulated_runs as runs

folder = Path(sys.argv[1])
runs.sweep(folder / "runs", ["aime25"], (0.5,))
run, scores = files.load_run(str(folder / "runs/MI-0.5")), files.load_scores(str(folder / "runs/MI-0.5"), "aime25")
(folder / "run").mkdir()
answers = [Response("p", i, i, "q", "x" * 300, 7, "stop") for i in range(30)]

def journal():
    opened = Journal(str(folder / "run"), "aime25")
    for answer in answers:
        opened.append(answer)

writers = {{
    "journal": journal,
    "run": lambda: files.save_run(str(folder / "run"), files.Run(**{{**vars(run), "merge": {{"x": "y" * 9000}}}})),
    "scores": lambda: files.save_scores(str(folder / "run"), scores),
    "verdicts": lambda: files.save_verdicts(str(folder / "run"), "aime25", answers, [Verdict(True, "z" * 300)] * 30),
    "report": lambda: report.write(folder / "runs", folder / "out"),
}}
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, resource.RLIM_INFINITY))
said = {{}}
for name, write in writers.items():
    try:
        write()
    except MIKernelsError as error:
        said[name] = [error.problem, error.remedy]
    except OSError as error:
        said[name] = ["OSError", str(error)]
kept = len(read(str(folder / "run"), "aime25")), sorted(p.name for p in (folder / "run").iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal()
print(json.dumps([said, kept, len(read(str(folder / "run"), "aime25"))]))
"""

WRITTEN = {
    "journal": "run/aime25.jsonl",
    "run": "run/run.json",
    "scores": "run/aime25.scores.json",
    "verdicts": "run/aime25.verdicts.jsonl",
    "report": "out/aime25-",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("disk")
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("writer", WRITTEN)
def test_every_writer_names_the_file_and_the_remedy(told: tuple[Path, list], writer: str) -> None:
    folder, (said, _, _) = told
    problem, remedy = said[writer]
    assert problem.startswith(f"{folder}/{WRITTEN[writer]}")
    assert problem.endswith(": cannot be written: File too large")
    assert remedy.startswith("The file exceeds a size limit: raise `ulimit -f`.")
    assert "run the same command again" in remedy


def test_what_is_finished_is_kept_and_nothing_half_is_left(told: tuple[Path, list]) -> None:
    """Ten lines fit. The rest of the eleventh is cut by the next session, which generates the others."""
    _, (_, (responses, names), after) = told
    assert responses == 10
    assert names == ["aime25.jsonl"], "no temporary file"
    assert after == 30
