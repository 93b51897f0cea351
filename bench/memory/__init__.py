"""In memory: kernels on tensors, relative to the same loop without arithmetic."""
