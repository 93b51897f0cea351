"""Safetensors checkpoints, read only: opened, checked, aligned, compared. Nothing here writes or merges."""
