"""Checksums of a model's files and tensors: taken while streaming, recorded, compared."""
