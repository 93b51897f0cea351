"""Benchmarks: `pytest bench/` in memory, `python -m bench.merge` file to file, `python -m bench.gpu`
everything on a GPU. See bench/README.md."""
