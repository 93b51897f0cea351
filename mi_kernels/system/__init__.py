"""The operating system: calls that Python lacks, what its failures mean, Ctrl-C, the progress bar."""
