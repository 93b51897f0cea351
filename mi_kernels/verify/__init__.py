"""Proof of a model folder: its bytes against its checksums, or against the merge done again."""
