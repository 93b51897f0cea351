"""How far apart two checkpoints are: figures by tensor, module and layer, and their heat map."""
