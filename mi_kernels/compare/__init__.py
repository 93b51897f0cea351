"""Measure how similar the weights of two checkpoints are, by tensor, module and layer, and draw a heat map."""
