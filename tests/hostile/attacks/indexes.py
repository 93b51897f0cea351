"""Attacks in an index: names outside the folder, duplicate names, too many names."""

from __future__ import annotations

import json
from typing import Any

from .case import INDEX, MODEL, SHARDS, SINGLE, Family, Scene, shard

FAMILY = Family("index")
HEAD = "lm_head.weight"


def indexed(scene: Scene, weight_map: object = None, **others: object) -> None:
    """Gives b two shards like a, with `weight_map` instead of the correct one."""
    (scene.b / SINGLE).unlink()
    for file in (*SHARDS, INDEX):
        (scene.b / file).write_bytes((scene.a / file).read_bytes())
    if weight_map is not None or others:
        scene.write_index(scene.b, good(scene) if weight_map is None else weight_map, **others)


def good(scene: Scene) -> dict[str, Any]:
    weight_map: dict[str, Any] = json.loads((scene.a / INDEX).read_text())["weight_map"]
    return weight_map


def head_in(scene: Scene, place: object) -> None:
    """Copies the shard with the head to `root / "secret"`. The index lists `place` for it."""
    (scene.secret.parent / "w.safetensors").write_bytes((scene.a / SHARDS[0]).read_bytes())
    weight_map = {name: place if file == SHARDS[0] else file for name, file in good(scene).items()}
    indexed(scene, weight_map)


PLACES: dict[str, object] = {
    "up": "../../secret/w.safetensors",
    "up_in_the_middle": "x/../../../secret/w.safetensors",
    "other_model": "../a/model-00001-of-00002.safetensors",
    "dot": "./model-00001-of-00002.safetensors",
    "subfolder": "sub/w.safetensors",
    "windows_up": "..\\..\\secret\\w.safetensors",
    "windows_drive": "C:\\secret\\w.safetensors",
    "nul": "w\0.safetensors",
    "empty": "",
    "dots": "..",
    "a_folder": "sub/",
    "config": "config.json",
    "device": "/dev/zero",
    "pickle": "pytorch_model.bin",
    "url": "https://example.org/w.safetensors",
    "file_url": "file:///etc/passwd#.safetensors",
    "a_number": 5,
    "null": None,
    "true": True,
    "a_list": [SHARDS[0]],
    "an_object": {"file": SHARDS[0]},
    "1_mb_long": "w" * 1_000_000 + ".bin",
}
for _name, _place in PLACES.items():
    FAMILY.add(f"place_{_name}", lambda scene, place=_place: head_in(scene, place), INDEX, "not the name")
FAMILY.add("place_absolute", lambda s: head_in(s, str(s.secret.with_name("w.safetensors"))), INDEX, "not the name")

MISSING: dict[str, str] = {
    "lone_surrogate": "w\ud800.safetensors",
    "escaped_byte": "w\udcff.safetensors",
    "too_long_for_a_file": "w" * 1000 + ".safetensors",
    "terminal_escapes": "\x1b[2J\x9b.safetensors",
    "tilde": "~root.safetensors",
    "variable": "$HOME.safetensors",
    "glob": "*.safetensors",
    "only_an_extension": ".safetensors",
    "not_there": "model-00003-of-00002.safetensors",
}
for _name, _place in MISSING.items():
    FAMILY.add(f"place_{_name}", lambda scene, place=_place: head_in(scene, place), ".safetensors")

MAPS: dict[str, object] = {
    "map_a_list": [HEAD],
    "map_text": "model.safetensors",
    "map_a_number": 1,
    "map_empty": {},
    "map_nested": {HEAD: {HEAD: {HEAD: SHARDS[0]}}},
}
for _name, _map in MAPS.items():
    FAMILY.add(_name, lambda scene, weight_map=_map: indexed(scene, weight_map), INDEX)

TEXTS: dict[str, bytes] = {
    "empty_file": b"",
    "json_broken": b'{"weight_map": {',
    "json_not_utf8": b'{"weight_map": {"\xff": "model.safetensors"}}',
    "json_nested": b"[" * 1_000_000,
    "json_nested_900": b'{"weight_map": ' + b"[" * 900 + b"]" * 900 + b"}",
    "json_nested_in_metadata": b'{"metadata": ' + b"[" * 500 + b"]" * 500 + b', "weight_map": {"w": "x.safetensors"}}',
    "json_a_number_of_5000_digits": b'{"metadata": {"total_size": ' + b"9" * 5000 + b"}}",
}
for _name, _text in TEXTS.items():
    FAMILY.add(_name, lambda s, text=_text: (indexed(s), (s.b / INDEX).write_bytes(text)), INDEX)


def _two_maps(scene: Scene) -> None:
    text = json.dumps(good(scene))
    indexed(scene)
    (scene.b / INDEX).write_text(f'{{"weight_map": {{"w": "x.safetensors"}}, "weight_map": {text}}}')


def _two_places(scene: Scene) -> None:
    text = json.dumps(good(scene))
    indexed(scene)
    (scene.b / INDEX).write_text(f'{{"weight_map": {{"{HEAD}": "{SHARDS[1]}", {text[1:]}}}')


FAMILY.add("map_given_twice", _two_maps, INDEX, "twice")
FAMILY.add("tensor_given_two_places", _two_places, INDEX, HEAD, "twice")


@FAMILY.attack(INDEX, "tensors")
def a_million_shards(scene: Scene) -> None:
    indexed(scene, {f"w{i}": f"{i}.safetensors" for i in range(1_000_000)})


@FAMILY.attack(INDEX, "tensors")
def a_million_names_in_one_shard(scene: Scene) -> None:
    indexed(scene, {**good(scene), **{f"w{i}": SHARDS[0] for i in range(1_000_000)}})


FAMILY.add("total_size_lies", lambda s: indexed(s, metadata={"total_size": -1}), harmless=True)
FAMILY.add("total_size_is_text", lambda s: indexed(s, metadata={"total_size": "\x1b[2J"}), harmless=True)
FAMILY.add("metadata_is_a_list", lambda s: indexed(s, metadata=[1]), harmless=True)
FAMILY.add("name_absent", lambda s: indexed(s, {**good(s), "w": SHARDS[0]}), harmless=True)
FAMILY.add("name_hostile", lambda s: indexed(s, {**good(s), "\x1b[2J\nok\ud800": SHARDS[0]}), harmless=True)
FAMILY.add("name_of_1_mb_absent", lambda s: indexed(s, {**good(s), "n" * 1_000_000: SHARDS[0]}), harmless=True)
FAMILY.add(
    "names_absent", lambda s: indexed(s, {**good(s), **dict.fromkeys(map(str, range(9999)), SHARDS[0])}), harmless=True
)
FAMILY.add("name_of_1_mb_in_a_bad_place", lambda s: indexed(s, {**good(s), "n" * 1_000_000: "../x.safetensors"}), INDEX)
FAMILY.add(
    "shards_swapped",
    lambda s: indexed(s, {n: SHARDS[1 - SHARDS.index(f)] for n, f in good(s).items()}),
    harmless=True,
)


def _twice(scene: Scene, weight_map: object) -> None:
    """Both shards of b hold the head."""
    indexed(scene, weight_map)
    names = list(MODEL)
    for number, file in enumerate(SHARDS):
        (scene.b / file).write_bytes(shard({name: MODEL[name] for name in {*names[number::2], HEAD}}))


FAMILY.add(
    "tensor_twice_and_unlisted", lambda s: _twice(s, {n: f for n, f in good(s).items() if n != HEAD}), HEAD, INDEX
)
FAMILY.add("tensor_twice_without_an_index", lambda s: (_twice(s, None), (s.b / INDEX).unlink()), HEAD, "no index")


def _set_of(scene: Scene, *names: str) -> None:
    """Gives b shards with these names, and no index."""
    (scene.b / SINGLE).unlink()
    for name in names:
        (scene.b / name).write_bytes((scene.a / SHARDS[0]).read_bytes())


_MANY = "9" * 200
FAMILY.add("set_of_10_to_the_200", lambda s: _set_of(s, f"model-1-of-{_MANY}.safetensors"), "model-2-of-9")
FAMILY.add("set_of_none", lambda s: _set_of(s, "model-0-of-0.safetensors", "model-1-of-0.safetensors"), INDEX)
FAMILY.add("set_with_a_number_twice", lambda s: _set_of(s, "m-1-of-2.safetensors", "m-01-of-2.safetensors"), "m-1-of-2")
FAMILY.add(
    "set_with_a_number_too_high", lambda s: _set_of(s, "m-1-of-2.safetensors", "m-3-of-2.safetensors"), "m-2-of-2"
)
FAMILY.add("two_sets", lambda s: _set_of(s, "m-1-of-1.safetensors", "n-1-of-1.safetensors"), "two sets")
FAMILY.add(
    "set_with_control_characters",
    lambda s: _set_of(s, "\x1b[2J\n-1-of-2.safetensors"),
    "-2-of-2.safetensors is missing",
)


@FAMILY.attack("not a regular file")
def set_of_devices(scene: Scene) -> None:
    (scene.b / SINGLE).unlink()
    for name in SHARDS:
        (scene.b / name).symlink_to("/dev/zero")


@FAMILY.attack(INDEX, "not the name")
def an_index_that_is_stale_and_leaves_the_folder(scene: Scene) -> None:
    """The complete set beside it must not hide what the index is."""
    indexed(scene, dict.fromkeys(good(scene), "../../secret/w.safetensors"))


@FAMILY.attack("consolidated.safetensors.index.json", "not the name")
def an_index_of_mistral_that_leaves_the_folder(scene: Scene) -> None:
    (scene.b / SINGLE).unlink()
    weight_map = dict.fromkeys(good(scene), f"../a/{SHARDS[1]}")
    (scene.b / "consolidated.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@FAMILY.attack(SHARDS[1], "not a regular file")
def shard_is_a_folder(scene: Scene) -> None:
    indexed(scene)
    (scene.b / SHARDS[1]).unlink()
    (scene.b / SHARDS[1]).mkdir()


@FAMILY.attack(SINGLE, INDEX)
def a_second_model_beside(scene: Scene) -> None:
    indexed(scene)
    (scene.b / SINGLE).write_bytes(shard(MODEL))


@FAMILY.attack("several indexes")
def a_second_index_beside(scene: Scene) -> None:
    indexed(scene)
    for name in ("x", "y"):
        (scene.b / f"{name}.safetensors.index.json").write_bytes((scene.b / INDEX).read_bytes())
    (scene.b / INDEX).unlink()
