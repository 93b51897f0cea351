"""Writes a model folder: layout, shards, small files, and the single rename that publishes it."""
