"""Fuzzes one target for a given time. A failure prints a traceback and saves the input to a file."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .seeds import SEEDS, words


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(SEEDS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="keep what reaches new code here, and begin with what is there")
    parser.add_argument("--input", type=Path, help="run this one input instead")
    arguments = parser.parse_args()

    import atheris

    with atheris.instrument_imports(include=["mi_kernels", "yaml", "json"]):
        from .targets import TARGETS
    target = TARGETS[arguments.target]
    if arguments.input is not None:
        target(arguments.input.read_bytes())
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        corpus = arguments.corpus or Path(folder, "corpus")
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(SEEDS[arguments.target]):
            (corpus / f"seed-{number}").write_bytes(seed)
        dictionary = Path(folder, "words")
        escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in words(arguments.target))
        dictionary.write_text("".join(f'"{word}"\n' for word in escaped))
        options = [f"-max_total_time={arguments.seconds}", "-max_len=4096", "-timeout=10"]
        options += [f"-dict={dictionary}"] if dictionary.stat().st_size else []
        atheris.Setup([sys.argv[0], *options, "-rss_limit_mb=2048", str(corpus)], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
