"""Benchmarks: `pytest bench/` in memory, `python -m bench.merge` file to file. See bench/README.md."""
