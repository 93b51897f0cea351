"""Safetensors checkpoints: read and checked, written whole or not at all.

`open_checkpoint` validates a folder (or a Hub id) and knows where every tensor's bytes lie; `OutputFolder` publishes a
new folder by one rename. Nothing here computes: see `ops`.
"""

from .fp8 import refuse_quantised
from .header import check_same_content
from .layout import OutputShard, plan_shards
from .model import Checkpoint, open_checkpoint
from .publish import OutputFolder
from .stamp import Content
from .tensor import TensorInfo
from .virtual import Tensor

__all__ = [
    "Checkpoint",
    "Content",
    "OutputFolder",
    "OutputShard",
    "Tensor",
    "TensorInfo",
    "check_same_content",
    "open_checkpoint",
    "plan_shards",
    "refuse_quantised",
]
