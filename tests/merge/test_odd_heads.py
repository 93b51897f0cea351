"""Pairs whose heads, vocabularies or dtypes differ: what config.json says is true of the output."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from mi_kernels import (
    MismatchError,
    Recipe,
    lerp_checkpoint,
    merge_checkpoint,
    similarity,
    sweep_checkpoint,
)
from mi_kernels.cli import program as cli
from mi_kernels.live.resident import Resident

from ..support.families import (
    EMBED,
    HEAD,
    LAM,
    interpolated,
    loaded,
    merged,
    saved,
    tensors_of,
    with_tensors,
)

pytest.importorskip("transformers")


def with_copies(tmp_path: Path) -> list[Path]:
    """Two models of a class that ties its head, each with a stored copy of the embedding as its head."""
    folders = []
    for i in (1, 2):
        plain = saved("gemma2", tmp_path / f"plain{i}", i)
        t = tensors_of(plain)
        folders.append(with_tensors(plain, tmp_path / f"side{i}", {**t, HEAD: t[EMBED]}))
    return folders


@pytest.mark.parametrize("head", ["lm_head.weight", "language_model.lm_head.weight"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_heads_under_other_names(tmp_path: Path, head: str, own: bool, turned: bool) -> None:
    """Gemma 3 ties its head; another tool stored one, under either of the names that transformers has used."""
    plain = [saved("gemma3", tmp_path / f"plain{i}", i) for i in (1, 2)]
    sides = [tensors_of(folder) for folder in plain]
    embedding = "language_model.model.embed_tokens.weight"
    stored = torch.randn(256, 64).bfloat16() if own else sides[1][embedding]
    folders = [plain[0], with_tensors(plain[1], tmp_path / "stored", {**sides[1], head: stored})]
    merged(*(folders[::-1] if turned else folders), tmp_path / "out")
    model = loaded(tmp_path / "out")
    pair = (sides[0][embedding], stored)
    assert torch.equal(model.lm_head.weight, interpolated(*(pair[::-1] if turned else pair), LAM))
    assert model.config.tie_word_embeddings != own


@pytest.mark.parametrize("one", ["tied", "copy", "own", "untied"])
@pytest.mark.parametrize("two", ["tied", "copy", "own", "untied"])
@pytest.mark.parametrize("key", [True, False], ids=["declared", "by the class"])
def test_heads(tmp_path: Path, one: str, two: str, key: bool) -> None:
    """Each side ties its head (and may store a copy), or has a head of its own, whatever its config.json says."""
    folders, sides = [], []
    for i, kind in enumerate((one, two)):
        plain = saved("gemma2", tmp_path / f"plain{i}", i + 1)
        tensors = tensors_of(plain)
        if kind == "copy":
            tensors[HEAD] = tensors[EMBED]
        elif kind != "tied":
            tensors[HEAD] = torch.randn(256, 64).bfloat16()
        folder = with_tensors(plain, tmp_path / f"side{i}", tensors)
        config = json.loads((folder / "config.json").read_text())
        config.pop("tie_word_embeddings", None)
        if key or kind == "untied":
            config["tie_word_embeddings"] = kind != "untied"
        (folder / "config.json").write_text(json.dumps(config))
        folders.append(folder)
        sides.append({HEAD: tensors[EMBED], **tensors})
    found, notes = merged(*folders, tmp_path / "out")
    expected = {n: interpolated(t, sides[1][n], LAM) for n, t in sides[0].items()}
    stored = HEAD in found
    assert_same = {**found, HEAD: found.get(HEAD, found[EMBED])}
    assert all(torch.equal(assert_same[n], t) for n, t in expected.items())
    model = loaded(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, expected[HEAD])
    assert torch.equal(model.model.embed_tokens.weight, expected[EMBED])
    tied = {one, two} <= {"tied", "copy"}
    assert model.config.tie_word_embeddings == tied
    assert stored == (not tied or one == "copy")
    assert any("differs from the embedding" in note for note in notes) == ("own" in (one, two))


def test_a_mask_over_the_embedding_unties_a_stored_copy(tmp_path: Path) -> None:
    folders = with_copies(tmp_path)
    for lam, modules, tied in (
        (0.5, "embed", False),
        (0.5, "head", False),
        (0.5, "embed,head", True),
        (0.5, "ffn", True),
    ):
        found, _ = merged(*folders, tmp_path / "out", lam, modules=modules, overwrite=True)
        model = loaded(tmp_path / "out")
        assert model.config.tie_word_embeddings == tied == torch.equal(found[HEAD], found[EMBED])
        assert torch.equal(model.lm_head.weight, found[HEAD])
    reports = sweep_checkpoint(*folders, f"{tmp_path}/s-{{lam}}", [0, 0.5], modules="embed", progress=False)
    assert [loaded(Path(r.out)).config.tie_word_embeddings for r in reports] == [True, False]


@pytest.mark.parametrize("a", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("b", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("copy_from", ["instruct", "thinking"])
def test_dtypes_of_config(tmp_path: Path, a: torch.dtype, b: torch.dtype, copy_from: str) -> None:
    one, two = saved("gemma3", tmp_path / "a", 1, dtype=a), saved("gemma3", tmp_path / "b", 2, dtype=b)
    for asked in (None, "float16"):
        found, _ = merged(one, two, tmp_path / "out", copy_from=copy_from, dtype=asked, overwrite=True)
        written = {str(t.dtype).removeprefix("torch.") for t in found.values()}
        assert written == {asked or str(a).removeprefix("torch.")}
        text = (tmp_path / "out" / "config.json").read_text()
        assert set(re.findall(r'"(?:torch_)?dtype": "(.*?)"', text)) == written
        assert next(loaded(tmp_path / "out").parameters()).dtype == next(iter(found.values())).dtype


def test_a_tower_in_another_dtype_has_its_own_dtype_in_config(tmp_path: Path) -> None:
    plain = [saved("gemma3", tmp_path / f"plain{i}", i) for i in (1, 2)]
    mixed = []
    for i, folder in enumerate(plain):
        tensors = {n: t.float() if n.startswith("vision_tower") else t for n, t in tensors_of(folder).items()}
        mixed.append(with_tensors(folder, tmp_path / f"mixed{i}", tensors))
        config = json.loads((mixed[i] / "config.json").read_text())
        for part in (config, config["text_config"], config["vision_config"]):
            part["dtype"] = "float16"
        config["text_config"]["torch_dtype"] = "float32"
        (mixed[i] / "config.json").write_text(json.dumps(config))
    merged(*mixed, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    assert {config["dtype"], text["dtype"], text["torch_dtype"]} == {"bfloat16"}
    assert vision["dtype"] == "float32"


def tokenizer(tokens: int) -> str:
    vocabulary = {f"t{i}": i for i in range(tokens)}
    return json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}, "added_tokens": []})


def grown(folder: Path, out: Path, rows: int, tokens: int = 250) -> Path:
    tensors = {
        n: torch.cat([t, torch.randn(rows - 256, 64).bfloat16()]) if n in (EMBED, HEAD) and rows > 256 else t
        for n, t in tensors_of(folder).items()
    }
    with_tensors(folder, out, tensors)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    (out / "tokenizer.json").write_text(tokenizer(tokens))
    return out


@pytest.mark.parametrize("rows", [(256, 320), (320, 256)])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_padding(tmp_path: Path, rows: tuple[int, int], lam: float, kind: str) -> None:
    folders = [grown(saved(kind, tmp_path / f"p{i}", i), tmp_path / f"g{i}", n) for i, n in enumerate(rows)]
    a, b = map(tensors_of, folders)
    found, notes = merged(*folders, tmp_path / "out", lam)
    for name, tensor in found.items():
        common = min(len(a[name]), len(b[name])) if name in (EMBED, HEAD) else len(a[name])
        head = interpolated(a[name][:common], b[name][:common], lam)
        assert torch.equal(tensor, torch.cat([head, a[name][common:]])), name
    assert sum("rest is padding" in note for note in notes) == 1
    assert not [note for note in notes if "vocab_size" in note]
    assert loaded(tmp_path / "out").config.vocab_size == rows[0]
    assert cli.main(["verify", str(tmp_path / "out"), "--recompute"]) == 0
    assert similarity(*folders, progress=False).overall.elements == sum(min(a[n].numel(), b[n].numel()) for n in found)


def sentence_pieces(count: int) -> bytes:
    """A SentencePiece model: `count` pieces (entry 1, with a text and a score), then a trainer spec (entry 2)."""
    pieces = [
        b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\x80\xbf"
        for text in map(str.encode, map(str, range(count)))
    ]
    return b"".join(b"\x0a" + bytes([len(p)]) + p for p in pieces) + b"\x12\x02\x18\x01"


@pytest.mark.parametrize("kind", ["vocab.json", "tokenizer.model", "tokenizer.model and added_tokens.json"])
def test_padding_by_older_tokenizers(tmp_path: Path, kind: str) -> None:
    plain = saved("qwen3", tmp_path / "p", 1)
    a, b = grown(plain, tmp_path / "a", 256), grown(plain, tmp_path / "b", 320)

    def give(folder: Path, tokens: int) -> None:
        (folder / "tokenizer.json").unlink(missing_ok=True)
        if kind == "vocab.json":
            (folder / kind).write_text(json.dumps({f"t{i}": i for i in range(tokens)}))
            return
        more = 3 if "added" in kind else 0
        (folder / "tokenizer.model").write_bytes(sentence_pieces(tokens - more))
        if more:
            (folder / "added_tokens.json").write_text(json.dumps({f"<{i}>": tokens - more + i for i in range(more)}))

    for tokens in (250, 256):
        give(a, tokens), give(b, tokens)
        assert len(merged(a, b, tmp_path / f"out{tokens}")[0][EMBED]) == 256
    give(a, 257), give(b, 257)
    with pytest.raises(MismatchError, match="shape"):
        lerp_checkpoint(a, b, tmp_path / "out", LAM, progress=False)
    give(a, 250), give(b, 251)
    with pytest.raises(MismatchError, match="shape"):
        lerp_checkpoint(a, b, tmp_path / "out", LAM, progress=False)


def test_one_model_with_two_paddings_is_the_same_model(tmp_path: Path) -> None:
    plain = saved("qwen3", tmp_path / "p", 1)
    folders = [grown(plain, tmp_path / f"g{i}", rows) for i, rows in enumerate((256, 320))]
    _, notes = merged(*folders, tmp_path / "out")
    assert [note for note in notes if "identical" in note] == [
        f"{folders[0]} and {folders[1]} are the same model: all {len(tensors_of(plain))} tensors that were read from "
        "both are identical"
    ]
    tensors = tensors_of(folders[1])
    tensors[EMBED][255] += 1
    other = with_tensors(folders[1], tmp_path / "other", tensors)
    _, notes = merged(folders[0], other, tmp_path / "out2")
    assert not [note for note in notes if "the same model" in note]


def test_padding_is_kept_by_other_methods(tmp_path: Path) -> None:
    folders = [
        grown(saved("qwen3", tmp_path / f"p{i}", i), tmp_path / f"g{i}", n) for i, n in enumerate((320, 256, 300))
    ]
    sides = [tensors_of(f) for f in folders]
    for method in ("ties", "dare_ties", "task_arithmetic"):
        recipe = {"method": method, "base": str(folders[0]), "models": [str(f) for f in folders[1:]]}
        merge_checkpoint(
            {**recipe, **({} if method == "task_arithmetic" else {"density": 0.5})}, tmp_path / method, progress=False
        )
        found = tensors_of(tmp_path / method)
        assert torch.equal(found[EMBED][256:], sides[0][EMBED][256:])
        loaded(tmp_path / method)


def test_tokens_beyond_the_common_rows_are_refused(tmp_path: Path) -> None:
    plain = saved("qwen3", tmp_path / "p", 1)
    a, b = grown(plain, tmp_path / "a", 256, 270), grown(plain, tmp_path / "b", 320, 270)
    with pytest.raises(MismatchError, match="vocabularies differ"):
        lerp_checkpoint(a, b, tmp_path / "out", LAM, progress=False)
    (a / "tokenizer.json").write_text(tokenizer(249))
    (b / "tokenizer.json").write_text(tokenizer(250))
    with pytest.raises(MismatchError, match="padding"):
        lerp_checkpoint(a, b, tmp_path / "out", LAM, progress=False)


@pytest.mark.parametrize("turned", [False, True])
def test_a_head_keeps_its_own_name(tmp_path: Path, turned: bool) -> None:
    """The head of Whisper is called proj_out."""
    a, plain = saved("whisper", tmp_path / "a", 1), saved("whisper", tmp_path / "plain", 2)
    own = torch.randn(256, 32).bfloat16()
    b = with_tensors(plain, tmp_path / "b", {**tensors_of(plain), "proj_out.weight": own})
    merged(*((b, a) if turned else (a, b)), tmp_path / "out")
    model = loaded(tmp_path / "out")
    pair = (tensors_of(a)["model.decoder.embed_tokens.weight"], own)
    assert torch.equal(model.proj_out.weight, interpolated(*(pair[::-1] if turned else pair), LAM))


@pytest.mark.parametrize("turned", [False, True])
def test_a_stored_copy_in_an_encoder(tmp_path: Path, turned: bool) -> None:
    """RoBERTa's head is lm_head.decoder, and older files store the copy of the embedding that it is."""
    a, plain = saved("roberta", tmp_path / "a", 1), saved("roberta", tmp_path / "plain", 2)
    t = tensors_of(plain)
    copy = {"lm_head.decoder.weight": t["roberta.embeddings.word_embeddings.weight"]}
    b = with_tensors(plain, tmp_path / "b", {**t, **copy})
    found, notes = merged(*((b, a) if turned else (a, b)), tmp_path / "out")
    assert found.keys() == t.keys() | (copy.keys() if turned else set())
    assert sum("lm_head.decoder.weight" in note for note in notes) == 1
    assert loaded(tmp_path / "out").config.tie_word_embeddings


def test_a_plain_pair_with_a_dense_layer_in_its_head_has_no_note(tmp_path: Path) -> None:
    a, b = saved("roberta", tmp_path / "a", 1), saved("roberta", tmp_path / "b", 2)
    assert merged(a, b, tmp_path / "out")[1] == []
    loaded(tmp_path / "out")


def test_positions_are_no_vocabulary(tmp_path: Path) -> None:
    """A model with few tokens and many positions."""
    a, b = saved("gpt2", tmp_path / "a", 1, n_positions=64), saved("gpt2", tmp_path / "b", 2, n_positions=32)
    for folder in (a, b):
        (folder / "tokenizer.json").write_text(tokenizer(10))
    with pytest.raises(MismatchError, match=r"wpe.*shape"):
        lerp_checkpoint(a, b, tmp_path / "out", LAM, progress=False)


def test_a_mask_that_unties_is_reported_and_never_served_tied(tmp_path: Path) -> None:
    folders = with_copies(tmp_path)
    _, notes = merged(*folders, tmp_path / "out", modules="embed")
    assert any("does not tie them" in note for note in notes)
    resident = Resident(folders)
    resident.check_tied(Recipe(0.5))
    with pytest.raises(MismatchError, match="ties the two"):
        resident.check_tied(Recipe(0.5, modules="embed"))
    resident.close()
