"""Merges checkpoints into model folders: plans a merge, streams tensors, keeps a journal, publishes the result."""
