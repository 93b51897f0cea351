"""Check a model folder against its checksums, and against the merge computed again."""
