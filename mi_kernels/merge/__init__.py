"""Checkpoints in, model folders out: planned, streamed, journalled, published."""
