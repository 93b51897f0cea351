"""Safetensors checkpoints: read and checked, written whole or not at all.

`open_checkpoint` validates a folder (or a Hub id) and knows where every tensor's bytes lie; `OutputFolder` publishes a
new folder by one rename. Nothing here computes: see `ops`.
"""

from .layout import OutputShard, plan_shards
from .model import Checkpoint, open_checkpoint
from .publish import OutputFolder
from .tensor import TensorInfo

__all__ = ["Checkpoint", "OutputFolder", "OutputShard", "TensorInfo", "open_checkpoint", "plan_shards"]
