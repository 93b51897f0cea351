"""Opens, checks, aligns and compares safetensors checkpoints. Read only: nothing here writes or merges."""
