"""Programs that benchmarks start as child processes. Nothing imports them."""
