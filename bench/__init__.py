"""Benchmarks: how to run them, what they measure, and how to add one is in bench/README.md."""
