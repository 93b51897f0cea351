"""Attacks in a safetensors file: the length, the JSON, the entries, the data, the names."""

from __future__ import annotations

import json
from collections.abc import Callable

from .case import MODEL, SINGLE, Family, Scene, raw, shard

FAMILY = Family("shard")
_LIMIT = 100_000_000  # the library's limit for a header


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one(**changes: object) -> bytes:
    """Returns a file with one tensor and a changed entry."""
    return raw({"w": entry(**changes)}, bytes(4))


BAD: dict[str, Callable[[], bytes]] = {
    "empty_file": lambda: b"",
    "seven_bytes": lambda: b"\x02" + bytes(6),
    "length_zero": lambda: bytes(64),
    "length_only": lambda: b"\x02" + bytes(7),
    "length_beyond_the_file": lambda: raw({}, length=1000),
    "length_over_the_limit": lambda: raw({}, length=_LIMIT + 1),
    "length_2_to_the_63": lambda: raw({}, length=1 << 63),
    "length_2_to_the_64_less_1": lambda: raw({}, length=(1 << 64) - 1),
    "length_less_8": lambda: raw({}, length=(1 << 64) - 8),
    "length_cuts_the_json": lambda: raw({"w": entry()}, bytes(4), length=10),
    "header_of_101_mb": lambda: raw(b"{}" + b" " * (_LIMIT + 1_000_000)),
    "json_broken": lambda: raw(b"{nonsense}"),
    "json_twice": lambda: raw(b"{} {}"),
    "json_a_list": lambda: raw([]),
    "json_not_utf8": lambda: raw(b'{"\xff\xfe": 1}'),
    "json_utf16": lambda: raw(json.dumps({"w": entry()}).encode("utf-16"), bytes(4)),
    "json_with_a_bom": lambda: raw(b"\xef\xbb\xbf" + json.dumps({"w": entry()}).encode(), bytes(4)),
    "json_nan": lambda: one(shape=[float("nan")]),
    "json_infinity": lambda: one(offsets=[0, float("inf")]),
    "nested_lists": lambda: raw(b'{"w": ' + b"[" * 100_000),
    "nested_objects": lambda: raw(b'{"w": ' * 100_000),
    "nested_in_an_unknown_key": lambda: raw(
        b'{"w": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        bytes(4),
    ),
    "entry_null": lambda: raw({"w": None}),
    "entry_a_list": lambda: raw({"w": ["F32", [1], [0, 4]]}, bytes(4)),
    "entry_without_dtype": lambda: raw({"w": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "entry_without_shape": lambda: raw({"w": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "entry_without_offsets": lambda: raw({"w": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "entry_with_a_key_twice": lambda: raw(
        b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "shape": [1]}}', bytes(4)
    ),
    "entry_with_a_number_of_5000_digits": lambda: raw(
        b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "x": ' + b"9" * 5000 + b"}}", bytes(4)
    ),
    "dtype_unknown": lambda: one(dtype="BF17"),
    "dtype_lower_case": lambda: one(dtype="f32"),
    "dtype_a_number": lambda: one(dtype=4),
    "dtype_of_another_size": lambda: one(dtype="BF16"),
    "dtype_1_mb_long": lambda: one(dtype="F" * 1_000_000),
    "shape_negative": lambda: one(shape=[-1]),
    "shape_float": lambda: one(shape=[1.0]),
    "shape_bool": lambda: one(shape=[True]),
    "shape_text": lambda: one(shape=["1"]),
    "shape_a_number": lambda: one(shape=1),
    "shape_null": lambda: one(shape=None),
    "shape_2_to_the_64": lambda: one(shape=[1 << 64]),
    "shape_of_1000_digits": lambda: one(shape=[10**1000]),
    "shape_product_wraps_to_1": lambda: one(shape=[3, 0xAAAAAAAAAAAAAAAB]),
    "shape_product_wraps_to_0": lambda: raw({"w": entry(shape=[1 << 33, 1 << 33], offsets=[0, 0])}),
    "shape_bytes_wrap": lambda: raw({"w": entry(shape=[1 << 62], offsets=[0, 0])}),
    "shape_too_large": lambda: one(shape=[2]),
    "shape_too_small": lambda: raw({"w": entry(offsets=[0, 8])}, bytes(8)),
    "offsets_negative": lambda: one(offsets=[-4, 0]),
    "offsets_reversed": lambda: one(offsets=[4, 0]),
    "offsets_three": lambda: raw({"w": entry(offsets=[0, 4, 8])}, bytes(8)),
    "offsets_float": lambda: one(offsets=[0.0, 4.0]),
    "offsets_bool": lambda: raw({"w": entry("U8", [1], [False, True])}, bytes(1)),
    "offsets_text": lambda: one(offsets=["0", "4"]),
    "offsets_beyond_the_file": lambda: one(shape=[100], offsets=[0, 400]),
    "offsets_2_to_the_64": lambda: one(offsets=[0, 1 << 64]),
    "offsets_wrap": lambda: raw({"w": entry(offsets=[(1 << 64) - 4, 0])}, bytes(4)),
    "offsets_into_the_header": lambda: raw({"w": entry(offsets=[-8, -4])}, bytes(4)),
    "data_missing": lambda: raw({"w": entry()}),
    "data_cut_short": lambda: raw({"w": entry()}, bytes(3)),
    "data_too_long": lambda: raw({"w": entry()}, bytes(5)),
    "data_overlaps": lambda: raw({"v": entry(), "w": entry(offsets=[2, 6])}, bytes(6)),
    "data_shared": lambda: raw({"v": entry(), "w": entry()}, bytes(4)),
    "data_with_a_hole": lambda: raw({"v": entry(), "w": entry(offsets=[8, 12])}, bytes(12)),
    "data_with_a_hole_at_the_start": lambda: raw({"w": entry(offsets=[4, 8])}, bytes(8)),
    "metadata_numbers": lambda: raw({"__metadata__": {"n": 1}, "w": entry()}, bytes(4)),
    "metadata_nested": lambda: raw({"__metadata__": {"n": {"m": "1"}}, "w": entry()}, bytes(4)),
    "metadata_a_list": lambda: raw({"__metadata__": ["1"], "w": entry()}, bytes(4)),
    "metadata_a_tensor": lambda: raw({"__metadata__": entry()}, bytes(4)),
    "name_a_lone_surrogate": lambda: raw(
        b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(4)
    ),
    "html_instead_of_weights": lambda: b"<!DOCTYPE html><html>404</html>",
    "git_lfs_pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "zip_instead_of_weights": lambda: b"PK\x03\x04" + bytes(60),
    "gguf_instead_of_weights": lambda: b"GGUF\x03\0\0\0" + bytes(60),
}
for _name, _content in BAD.items():
    FAMILY.add(_name, lambda scene, content=_content: scene.weights(scene.b, content()), SINGLE)


def _named_twice(scene: Scene, name: str) -> None:
    text = json.dumps(name) + ': {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    scene.weights(scene.b, raw(f"{{{text}, {text}}}".encode(), bytes(4)))


HOSTILE_NAMES = {
    "newline": "w\nmi-kernels: all is well",
    "nul": "w\0x",
    "terminal_escapes": "\x1b[2J\x1b]0;owned\x07\x9b31m",
    "right_to_left": "\u202etxt.exe",
    "path": "../../../../tmp/outside",
    "absolute_path": "/etc/passwd",
    "format_string": "%s%n{0}{x!r}",
    "empty": "",
    "1_mb_long": "n" * 1_000_000,
}
for _kind, _text in HOSTILE_NAMES.items():
    FAMILY.add(f"name_twice_{_kind}", lambda scene, text=_text: _named_twice(scene, text), SINGLE, "twice")


def _both(scene: Scene, content: bytes) -> None:
    for folder in (scene.a, scene.b):
        scene.weights(folder, content)


for _kind, _text in HOSTILE_NAMES.items():
    FAMILY.add(
        f"name_{_kind}",
        lambda scene, text=_text: _both(scene, shard({**MODEL, text: ("BF16", (2,))})),
        harmless=True,
    )
    FAMILY.add(
        f"name_{_kind}_alone",
        lambda scene, text=_text: scene.weights(scene.b, shard({**MODEL, text: ("BF16", (2,))})),
        "lacks",
    )
    FAMILY.add(
        f"name_{_kind}_inspected",
        lambda scene, text=_text: scene.weights(scene.b, shard({**MODEL, text: ("BF16", (2,))})),
        harmless=True,
        command="inspect",
    )


FAMILY.add("name_is_metadata", lambda s: _both(s, shard(MODEL, {"__metadata__": "x"})), harmless=True)
FAMILY.add("metadata_null", lambda s: _both(s, raw({"__metadata__": None, "w": entry()}, bytes(4))), harmless=True)
FAMILY.add(
    "metadata_of_10_mb", lambda s: _both(s, shard(MODEL, {"format": "pt", "x": "y" * 10_000_000})), harmless=True
)
FAMILY.add(
    "metadata_with_a_key_twice",
    lambda s: s.weights(
        s.b, raw(b'{"__metadata__": {"a": "1", "a": "2"}, "w": ' + json.dumps(entry()).encode() + b"}", bytes(4))
    ),
    SINGLE,
    "twice",
)
FAMILY.add(
    "rank_of_100000",
    lambda s: _both(s, shard({**MODEL, "w": ("BF16", (1,) * 100_000)})),
    harmless=True,
)
FAMILY.add(
    "empty_tensor_of_2_to_the_63_rows", lambda s: _both(s, shard({**MODEL, "w": ("BF16", (1 << 63, 0))})), harmless=True
)
FAMILY.add(
    "layer_of_20_digits",
    lambda s: _both(s, shard({**MODEL, f"model.layers.{'9' * 20}.mlp.up_proj.weight": ("BF16", (2,))})),
    harmless=True,
)
FAMILY.add(
    "layer_9999",
    lambda s: s.weights(s.b, shard({**MODEL, "model.layers.9999.mlp.up_proj.weight": ("BF16", (2,))})),
    "layers",
)


def many(count: int, width: int = 0) -> bytes:
    """Returns a valid file of `count` one-element tensors with names padded to `width`. Its JSON has no spaces."""
    entries = (
        f'"{i:0{width}}":{{"dtype":"BF16","shape":[1],"data_offsets":[{2 * i},{2 * i + 2}]}}' for i in range(count)
    )
    return raw(f"{{{','.join(entries)}}}".encode(), b"\x3f" * 2 * count)


FAMILY.add("a_million_tensors", lambda s: _both(s, many(1_000_000)), SINGLE, "tensors")
FAMILY.add("a_hundred_thousand_tensors", lambda s: _both(s, many(100_000)), harmless=True)


def _headers_that_add_up(scene: Scene) -> None:
    """Two files whose headers are within the limit. Merged into one file, the header would exceed the limit."""
    names = {file: {c * 55_000_000: ("BF16", (2,))} for c, file in zip("ab", ("a.safetensors", "b.safetensors"))}
    for folder in (scene.a, scene.b):
        scene.weights(folder, b"")
        (folder / SINGLE).unlink()
        for file, tensors in names.items():
            (folder / file).write_bytes(shard(tensors))
        scene.write_index(folder, {name: file for file, tensors in names.items() for name in tensors})


FAMILY.add("headers_that_add_up", _headers_that_add_up, command="swapped")
