"""Checksums of files and tensors of a model: computed while streaming, recorded and compared."""
