"""The other files of a merge: index, config, tokenizer, card and record. transformers loads the result."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mi_kernels import __version__, lerp_checkpoint, open_checkpoint

from ..support.checks import World, handled
from ..support.models import (
    CONFIG,
    INDEX,
    Tensors,
    as_hub_cache,
    assert_same_tensors,
    load,
    merge_reference,
    qwen3_model,
    random_bits,
    save,
    tiny,
)

HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


def merge(world: World, lam: float = 0.5, **options: Any) -> Any:
    return lerp_checkpoint(world.instruct, world.thinking, world.out, lam, progress=False, **options)


def config(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


@pytest.mark.parametrize("max_shard_size", [None, 2000])
def test_the_index_is_right(tmp_path: Path, max_shard_size: int | None) -> None:
    world = World(tmp_path, shards=3)
    report = merge(world, max_shard_size=max_shard_size)
    index = json.loads((world.out / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in world.a.values())
    assert set(index["weight_map"].values()) == {path.name for path in world.out.glob("*.safetensors")}
    model = open_checkpoint(world.out)  # also checks that index and shards agree
    assert len(model.tensors) == len(world.a)
    assert len(model.shards) == report.shards
    assert model.notes == []
    if max_shard_size is not None:
        assert report.shards > 3


def test_a_single_file_has_no_index(tmp_path: Path) -> None:
    world = World(tmp_path, shards=1)
    merge(world)
    assert [path.name for path in world.out.glob("*.safetensors*")] == ["model.safetensors"]


SMALL = {
    "generation_config.json": '{"temperature": 0.6}',
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "vocab.json": "{}",
    "merges.txt": "a b",
    "chat_template.jinja": "<think>",
    "tokenizer.model": b"\x00\xff",
    "qwen.tiktoken": "YQ== 0",
    "modeling_own.py": "raise SystemExit('never run')",
    "LICENSE": "licence",
    "NOTICE.txt": "notice",
}
LEFT = {
    "README.md": "# theirs",
    "pytorch_model.bin.index.json": "{}",
    "mi_kernels.json": "{}",
    "mi_kernels.checksums.json": "{}",
    ".gitattributes": "*",
    "training_args.bin": "x",
    "image.png": "x",
}


@pytest.mark.parametrize("copy_from", [None, "thinking", "instruct"])
def test_small_files_are_copied_from_one_side(tmp_path: Path, copy_from: str | None) -> None:
    world = World(tmp_path)
    for side, folder in (("instruct", world.instruct), ("thinking", world.thinking)):
        for name, content in {**SMALL, **LEFT, f"vocab_{side}.txt": "x"}.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else (content + side).encode())
        auto_map = {"AutoModelForCausalLM": "modeling_own.Own"}
        (folder / "config.json").write_text(json.dumps({**CONFIG, "from": side, "auto_map": auto_map}))
        (folder / "assets.json").mkdir()
        if side == "instruct":
            (folder / "mi_kernels.json").write_text("{}")
    merge(world, **({} if copy_from is None else {"copy_from": copy_from}))
    origin = world.instruct if copy_from == "instruct" else world.thinking
    expected = {*SMALL, f"vocab_{origin.name}.txt", "config.json"}
    made = {"README.md", "mi_kernels.json", "mi_kernels.checksums.json", INDEX}
    assert {p.name for p in world.out.iterdir() if p.suffix != ".safetensors"} == expected | made
    for name in expected:
        assert (world.out / name).read_bytes() == (origin / name).read_bytes()
    assert "theirs" not in (world.out / "README.md").read_text()


def test_links_become_files(tmp_path: Path) -> None:
    world = World(tmp_path)
    (world.thinking / "tokenizer.json").write_text('{"a": 1}')
    cached = as_hub_cache(world.thinking, tmp_path / "hub")
    lerp_checkpoint(world.instruct, cached, world.out, 0.5, progress=False)
    assert not (world.out / "tokenizer.json").is_symlink()
    assert (world.out / "tokenizer.json").read_text() == '{"a": 1}'


def test_the_card(tmp_path: Path) -> None:
    world = World(tmp_path)
    a = as_hub_cache(world.instruct, tmp_path / "hub", "Org/A-Instruct_2507")
    lerp_checkpoint(a, world.thinking, world.out, 0.25, layers="0:1", modules="ffn", progress=False)
    _, front, text = (world.out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": ["Org/A-Instruct_2507", "thinking"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "mi_kernels"],
    }
    assert text.lstrip().startswith("# out\n")
    for word in ("Org/A-Instruct_2507", "thinking", "lam = 0.25", "layers 0:1", "modules ffn", __version__):
        assert word in text


@pytest.mark.parametrize("name", ["a: b", "- x", 'quo"te', "模型", "#tag"])
def test_the_card_is_yaml_whatever_the_folders_are_called(tmp_path: Path, name: str) -> None:
    """The Hub rejects a card whose base_model cannot be an id, so such a name is only in the text."""
    world = World(tmp_path)
    world.thinking.rename(tmp_path / name)
    lerp_checkpoint(world.instruct, tmp_path / name, world.out, 0.5, progress=False)
    _, front, text = (world.out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == ["instruct"]
    assert f"`{name}`" in text


def headers_digest(folder: Path) -> str:
    digests = ""
    for shard in sorted(folder.glob("*.safetensors")):
        content = shard.read_bytes()
        digests += hashlib.sha256(content[: 8 + int.from_bytes(content[:8], "little")]).hexdigest()
    return hashlib.sha256(digests.encode()).hexdigest()


def test_the_record(tmp_path: Path) -> None:
    world = World(tmp_path)
    merge(world, 0.8, layers="0:1", modules=["ffn", "attn"], dtype="fp32", copy_from="instruct")
    record = json.loads((world.out / "mi_kernels.json").read_text())
    same = {"revision": None, "tensors": len(world.a), "bytes": sum(t.nbytes for t in world.a.values())}
    numerics = record.pop("numerics")
    assert record.pop("summary").startswith("`merged = (1 - lam)")
    assert "torch.lerp(a.float(), b.float(), lam).to(dtype)" in numerics
    chosen = sum(".layers.0." in n and ("mlp" in n or "self_attn" in n) for n in world.a)
    assert record == {
        "mi_kernels": __version__,
        "schema": 1,
        "role": "merged",
        "method": "lerp",
        "rules": [],
        "lam": 0.8,
        "layers": "0:1",
        "modules": ["ffn", "attn"],
        "dtype": "F32",
        "copy_from": "instruct",
        "max_shard_size": None,
        "instruct": {**same, "source": str(world.instruct), "headers": headers_digest(world.instruct)},
        "thinking": {**same, "source": str(world.thinking), "headers": headers_digest(world.thinking)},
        "tensors_interpolated": chosen,
        "tensors_copied": len(world.a) - chosen,
    }


def test_the_record_keeps_the_revision_of_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    folder = as_hub_cache(world.thinking, tmp_path / "hub", "org/thinking", "c0ffee")
    monkeypatch.setattr("mi_kernels.checkpoint.hub.download", lambda *_: (str(folder), "c0ffee"))
    lerp_checkpoint(world.instruct, "org/thinking@main", world.out, 0.5, progress=False)
    record = json.loads((world.out / "mi_kernels.json").read_text())
    assert (record["thinking"]["source"], record["thinking"]["revision"]) == ("org/thinking@main", "c0ffee")
    assert '"org/thinking"' in (world.out / "README.md").read_text()


def test_the_report(tmp_path: Path) -> None:
    world = World(tmp_path, shards=3)
    size = sum(t.nbytes for t in world.a.values())
    report = merge(world, 0.5, modules="norm", threads=2, device="cpu")
    norms = [n for n in world.a if "norm.weight" in n and "q_norm" not in n and "k_norm" not in n]
    assert report.out == str(world.out)
    assert report.tensors_interpolated == len(norms)
    assert report.tensors_copied == len(world.a) - len(norms)
    assert report.bytes_read == size + sum(world.a[n].nbytes for n in norms)
    assert report.bytes_written == sum(p.stat().st_size for p in world.out.glob("*.safetensors"))
    assert (report.shards, report.backend, report.threads, handled(report.notes)) == (3, "cpu", 2, [])
    assert report.seconds > 0
    speed = (report.bytes_read + report.bytes_written) / report.seconds / 1e9
    assert math.isclose(report.gigabytes_per_second, speed)
    assert json.loads(json.dumps(report.as_dict()))["gigabytes_per_second"] == round(speed, 3)


def test_progress_reaches_the_last_byte(tmp_path: Path) -> None:
    world = World(tmp_path)
    calls: list[tuple[int, int]] = []
    report = lerp_checkpoint(
        world.instruct, world.thinking, world.out, 0.5, progress=lambda *c: calls.append(c), max_memory=4096
    )
    assert len(calls) > 2
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert {total for _, total in calls} == {report.bytes_written}
    assert calls[-1][0] == report.bytes_written


def test_a_progress_function_that_fails_ends_the_merge(tmp_path: Path) -> None:
    world = World(tmp_path)

    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, progress=fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["instruct", "thinking"]


@pytest.mark.parametrize(("name", "expected"), [("bf16", "bfloat16"), ("float16", "float16"), ("fp32", "float32")])
def test_the_config_has_the_new_dtype(tmp_path: Path, name: str, expected: str) -> None:
    world = World(tmp_path)
    given = {**CONFIG, "text_config": {"dtype": "bfloat16", "hidden_size": 16}}
    (world.thinking / "config.json").write_text(json.dumps(given))
    merge(world, dtype=name)
    assert config(world.out) == {
        **given,
        "torch_dtype": expected,
        "text_config": {"dtype": expected, "hidden_size": 16},
    }


def with_tied(tmp_path: Path, tied_side: str, **tied_config: Any) -> World:
    """Two models. One of them ties lm_head and does not store it."""
    world = World(tmp_path)
    side = world.thinking if tied_side == "thinking" else world.instruct
    for path in side.iterdir():
        path.unlink()
    side.rmdir()
    tensors = tiny(9, tied=True)
    save(side, tensors, 2, config={**CONFIG, "tie_word_embeddings": True, **tied_config})
    if tied_side == "thinking":
        world.b = {**tensors, HEAD: tensors[EMBED]}
    else:
        world.a = {**tensors, HEAD: tensors[EMBED]}
    return world


@pytest.mark.parametrize("copy_from", ["thinking", "instruct"])
@pytest.mark.parametrize("tied_side", ["thinking", "instruct"])
def test_a_head_tied_on_one_side(tmp_path: Path, tied_side: str, copy_from: str) -> None:
    world = with_tied(tmp_path, tied_side)
    report = merge(world, 0.8, copy_from=copy_from)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.8))
    assert config(world.out) == {**CONFIG, "tie_word_embeddings": False}
    (note,) = handled(report.notes)
    assert HEAD in note
    assert str(world.root / tied_side) in note


@pytest.mark.parametrize("tied_side", ["thinking", "instruct"])
def test_a_head_tied_beside_an_embedding_of_positions(tmp_path: Path, tied_side: str) -> None:
    """The position embedding comes first in the file and has the same number of columns."""
    positions = "model.embed_positions.weight"
    a, b = ({**tiny(seed), positions: random_bits((7, 16), torch.bfloat16, seed)} for seed in (1, 2))
    tied = b if tied_side == "thinking" else a
    del tied[HEAD]
    world = World(tmp_path, a, b)
    (world.root / tied_side / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": True}))
    order = list(open_checkpoint(world.root / tied_side).tensors)
    assert order.index(positions) < order.index(EMBED)
    report = merge(world, 0.8)
    tied[HEAD] = tied[EMBED]
    assert_same_tensors(load(world.out), merge_reference(a, b, 0.8))
    (note,) = [note for note in handled(report.notes) if HEAD in note]
    assert note.endswith(f"so its {EMBED} is used")


def test_a_config_that_does_not_say_whether_it_ties(tmp_path: Path) -> None:
    """Some architectures tie by default, so the output sets tie_word_embeddings to false."""
    world = with_tied(tmp_path, "thinking")
    (world.instruct / "config.json").write_text('{"model_type": "gemma"}')
    merge(world, 0.8, copy_from="instruct")
    assert config(world.out) == {"model_type": "gemma", "tie_word_embeddings": False}


def test_a_head_tied_in_the_text_part_of_a_config(tmp_path: Path) -> None:
    world = with_tied(tmp_path, "thinking", text_config={"tie_word_embeddings": True})
    merge(world, 0.8)
    assert config(world.out)["tie_word_embeddings"] is False
    assert config(world.out)["text_config"]["tie_word_embeddings"] is False


def test_heads_tied_on_both_sides_stay_tied(tmp_path: Path) -> None:
    world = World(tmp_path / "w", tiny(1, tied=True), tiny(2, tied=True))
    for side in (world.instruct, world.thinking):
        (side / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": True}))
    report = merge(world, 0.8, device="cpu")
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.8))
    assert config(world.out)["tie_word_embeddings"] is True
    assert handled(report.notes) == []


@pytest.mark.parametrize("tied_side", ["thinking", "instruct"])
def test_a_stored_head_that_only_one_config_ties(tmp_path: Path, tied_side: str) -> None:
    """Loaders would replace the merged head by the embedding, which is a different tensor."""
    world = World(tmp_path)
    tensors: Tensors = world.b if tied_side == "thinking" else world.a
    tensors[HEAD] = tensors[EMBED].clone()
    side = tmp_path / tied_side
    for path in side.iterdir():
        path.unlink()
    side.rmdir()
    save(side, tensors, 2, config={**CONFIG, "tie_word_embeddings": True})
    merge(world, 0.8, copy_from=tied_side)
    assert_same_tensors(load(world.out), merge_reference(world.a, world.b, 0.8))
    assert config(world.out)["tie_word_embeddings"] is False


@pytest.mark.parametrize(("tied_a", "tied_b"), [(False, False), (True, True), (False, True), (True, False)])
def test_transformers_loads_the_merge(tmp_path: Path, tied_a: bool, tied_b: bool) -> None:
    """The logits are those of a model whose weights torch interpolated."""
    from transformers import AutoModelForCausalLM

    models = [qwen3_model(1, tied=tied_a), qwen3_model(2, tied=tied_b)]
    for model, name in zip(models, ("a", "b")):
        model.save_pretrained(tmp_path / name, max_shard_size="10KB")
    lerp_checkpoint(tmp_path / "a", tmp_path / "b", tmp_path / "out", 0.8, progress=False)
    expected = qwen3_model(3, tied=tied_a and tied_b)
    expected.load_state_dict(merge_reference(*(model.state_dict() for model in models), 0.8))
    expected.save_pretrained(tmp_path / "expected")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "expected").eval()
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.tie_word_embeddings == (tied_a and tied_b)
    assert_same_tensors(loaded.state_dict(), expected.state_dict())
    tokens = torch.tensor([[1, 5, 9, 33, 2]])
    with torch.no_grad():
        logits = [model.eval()(tokens).logits for model in (loaded, expected)]
    assert torch.equal(*logits)
