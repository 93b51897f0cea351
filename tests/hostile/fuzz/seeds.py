"""Initial inputs for fuzzing: valid input of every kind, and keywords of the parsers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable

from mi_kernels.checksums.record import FileSum, Record, ShardSum, TensorSum

from ..attacks.case import CONFIG, MODEL, SHARDS, raw, shard
from ..attacks.recipes import MERGEKIT, OURS, YAML
from ..attacks.shards import BAD

_TEXTS = {"<a>": "a", "<b>": "b", "<marker>": "m", "<secret>": "s"}


def _filled(text: str) -> bytes:
    for key, value in _TEXTS.items():
        text = text.replace(key, value)
    return text.encode(errors="replace")


def _json(*values: object) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


_LINEAR = {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 0.5}} for m in "ab"]}
_SLICES = {
    "merge_method": "ties",
    "base_model": "x",
    "slices": [{"sources": [{"model": m, "layer_range": [0, 2]} for m in "xab"]}],
    "parameters": {"weight": [{"filter": "mlp", "value": [0, 0.5]}, {"value": 1}], "density": 0.5},
}
_ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"up_proj": 2}, "use_rslora": True}
_FP8 = {**CONFIG, "quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2], "fmt": "e4m3"}}

_SUMS = {"x.safetensors": ShardSum(40, 1, FileSum(8, 2), {"w": TensorSum(8, 32, (3,))})}
_RECORD = Record(_SUMS, {"config.json": FileSum(2, 4)}).encode()
_JOURNAL = [
    b"%08x %s\n" % (zlib.crc32(text), text)
    for text in _json({"request": {"lam": 0.5}}, {"sums": Record(_SUMS, {}).encode().decode()}, {"publishing": True})
]

_SHARDS = [c for make in BAD.values() if len(c := make()) < 2000] + [shard(MODEL, {"format": "pt"}), raw({})]

SEEDS: dict[str, list[bytes]] = {
    "header": [*(c for c in _SHARDS if c), *(c[8 : 8 + int.from_bytes(c[:8], "little")] for c in _SHARDS)],
    "index": _json({"metadata": {"total_size": 1}, "weight_map": {n: SHARDS[i % 2] for i, n in enumerate(MODEL)}}),
    "json": _json(CONFIG, _FP8, [], {"a": {"b": [1, 2.5, None, True, "x"]}}),
    "recipe": [_filled(t) for t in (*YAML.values(), *OURS.values()) if len(t) < 1000],
    "mergekit": _json(_LINEAR, _SLICES, *({**_LINEAR, **c} for c in MERGEKIT.values())),
    "adapter": _json(
        _ADAPTER, {**_ADAPTER, "alpha_pattern": {r".*\\.q": 1}}, {"peft_type": "LORA", "r": 2, "lora_alpha": 1}
    ),
    "fp8": _json(
        _FP8, {**_FP8, "quantization_config": {"quant_method": "fp8"}}, {"quantization_config": {"load_in_4bit": 1}}
    ),
    "checksums": [_RECORD, _RECORD.replace(b"40", b"48")],
    "journal": [b"".join(_JOURNAL), b"".join(_JOURNAL[:2]), _JOURNAL[1], b"00000000 \n"],
    "masks": [b"12:36", b":12,24:", b"-4:", b"7", b"1/3:2/3", b"0.2,0.4:0.6:0.05,0.8", b"5GB", b"attn,ffn"],
}


def words(target: str) -> Iterable[bytes]:
    """Returns keywords of the target for the dictionary of the mutator."""
    texts = b" ".join(SEEDS[target]).replace(b"\0", b" ").split(b'"')
    return sorted({word for word in texts if 1 < len(word) < 30 and word.isascii()})[:400]
