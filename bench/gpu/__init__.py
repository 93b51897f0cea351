"""On a GPU: its tests, the sanitizer, and the benchmarks in device memory and file to file."""
