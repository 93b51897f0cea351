"""File to file: whole merges as processes, relative to copying the same bytes."""
