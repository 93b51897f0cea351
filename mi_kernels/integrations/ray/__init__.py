"""Merge checkpoints on the nodes of a Ray cluster with shared storage."""
