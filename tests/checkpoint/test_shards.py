"""Which files are a model: indexes that are wrong, stale or missing, Mistral's format, and the path of one file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from mi_kernels import CheckpointError, lerp_checkpoint, open_checkpoint
from mi_kernels.checkpoint.record import CONSOLIDATED, INDEX, MISTRAL_INDEX, SINGLE

from ..support.checks import assert_message, assert_refused, run_cli, watched
from ..support.models import (
    Tensors,
    assert_same_tensors,
    load,
    merge_reference,
    qwen3_model,
    save,
    tiny,
    write_in_order,
)

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
EXTRA = "mtp.fc.weight"
TWO = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def numbered(stem: str, count: int, width: int = 5) -> list[str]:
    return [f"{stem}-{i:0{width}}-of-{count:0{width}}.safetensors" for i in range(1, count + 1)]


def parted(tensors: Tensors, names: list[str]) -> dict[str, Tensors]:
    """Deals the tensors to files with these names in turn."""
    keys = list(tensors)
    return {name: {key: tensors[key] for key in keys[i :: len(names)]} for i, name in enumerate(names)}


def places(files: Mapping[str, Tensors]) -> dict[str, str]:
    """Returns the correct weight_map of these files."""
    return {key: name for name, tensors in files.items() for key in tensors}


def lay(
    folder: Path, files: Mapping[str, Tensors], weight_map: Mapping[str, str] | None = None, index: str = INDEX
) -> None:
    """Writes files with weights, and an index with this weight_map if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in files.items():
        save_file({key: t.contiguous() for key, t in tensors.items()}, folder / name, metadata={"format": "pt"})
    if weight_map is not None:
        (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


class Pair(NamedTuple):
    """The tensors of two models of transformers. The second one is in the folder `b`."""

    root: Path
    a: Tensors
    b: Tensors

    @property
    def folder(self) -> Path:
        return self.root / "a"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def merge(self, **options: Any) -> list[str]:
        """Merges the two folders with lam 0.3, and returns the notes on the first model."""
        options = {"progress": False, "threads": 1, **options}
        report = lerp_checkpoint(self.folder, self.root / "b", self.out, 0.3, **options)
        return [note for note in report.notes if note.startswith(f"{self.folder}: ")]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """The folder of the first model has its config.json, and no weights yet."""
    models = [qwen3_model(seed, tied=False) for seed in (1, 2)]
    for model, name in zip(models, "ab"):
        model.save_pretrained(tmp_path / name)
    (tmp_path / "a" / SINGLE).unlink()
    return Pair(tmp_path, *({k: v.clone() for k, v in m.state_dict().items()} for m in models))


def loaded(folder: Path) -> Tensors:
    """Returns the parameters of the model that transformers loads. It must find all of them, and nothing else."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.bfloat16)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], kind
    return dict(model.state_dict())


Lay = Callable[[Pair], None]


class Case(NamedTuple):
    """A layout of the first model.

    Attributes:
        words: texts that its notes contain, one text a note.
        shards: the names of the shards of the output.
        loads: transformers loads the input too, with the same tensors.
    """

    lay: Lay
    words: list[str]
    shards: list[str] = TWO
    loads: bool = True


def lists_more(pair: Pair) -> None:
    files = parted(pair.a, TWO)
    lay(pair.folder, files, {**places(files), EXTRA: TWO[1], "mtp.norm.weight": TWO[0]})


def lists_less(pair: Pair) -> None:
    files = parted(pair.a, TWO)
    lay(pair.folder, files, {name: file for name, file in places(files).items() if name not in (HEAD, NORM)})


def lists_other_shards(pair: Pair) -> None:
    files = parted(pair.a, TWO)
    lay(pair.folder, files, {name: TWO[1 - TWO.index(file)] for name, file in places(files).items()})


def lists_one_tensor_elsewhere(pair: Pair) -> None:
    files = parted(pair.a, TWO)
    here = places(files)[HEAD]
    lay(pair.folder, files, {**places(files), HEAD: TWO[1 - TWO.index(here)]})


def is_of_an_earlier_save(count: int, stem: str = "model") -> Lay:
    def make(pair: Pair) -> None:
        lay(pair.folder, parted(pair.a, TWO), places(parted(pair.a, numbered(stem, count))))

    return make


def is_stale_beside_a_single_file(pair: Pair) -> None:
    lay(pair.folder, {SINGLE: pair.a}, places(parted(pair.a, TWO)))


def is_stale_in_part_beside_a_single_file(pair: Pair) -> None:
    shards = parted(pair.b, TWO)
    lay(pair.folder, {SINGLE: pair.a, TWO[0]: shards[TWO[0]]}, places(shards))


def beside_a_folder_with_such_a_name(pair: Pair) -> None:
    lay(pair.folder, {"merged.safetensors": pair.a})
    (pair.folder / "x.safetensors").mkdir()


def is_stale_beside_a_shard_of_its_own(pair: Pair) -> None:
    three = parted(pair.b, numbered("model", 3))
    lay(pair.folder, {**parted(pair.a, TWO), numbered("model", 3)[1]: three[numbered("model", 3)[1]]}, places(three))


def without(names: list[str]) -> Lay:
    return lambda pair: lay(pair.folder, parted(pair.a, names))


def leaves_out(*names: str) -> Lay:
    """The index is right, but does not list these files, which are no valid files."""

    def make(pair: Pair) -> None:
        files = parted(pair.a, TWO)
        lay(pair.folder, files, places(files))
        for name in names:
            (pair.folder / name).write_bytes(b"not read")

    return make


def beside_a_single_file(*names: str) -> Lay:
    def make(pair: Pair) -> None:
        lay(pair.folder, {SINGLE: pair.a})
        for name in names:
            (pair.folder / name).write_bytes(b"not read")

    return make


def lists_a_tensor_of_two_shards_in_a_third(pair: Pair) -> None:
    """The entry decides between the two shards that hold the tensor."""
    names = numbered("model", 3)
    files = parted(pair.a, names)
    holder = places(files)[HEAD]
    other = next(name for name in names if name != holder)
    weight_map = places(files)
    files[other][HEAD] = torch.zeros_like(pair.a[HEAD])
    lay(pair.folder, files, weight_map)


CASES = {
    "lists more": Case(lists_more, [f"lists {EXTRA}, mtp.norm.weight, which no shard has"]),
    "lists less": Case(lists_less, [f"does not list {HEAD}, {NORM}"]),
    "lists other shards": Case(lists_other_shards, ["the index is wrong about"]),
    "lists one tensor elsewhere": Case(lists_one_tensor_elsewhere, [f"{HEAD} is in model-0000"]),
    "two shards hold it": Case(
        lists_a_tensor_of_two_shards_in_a_third, ["1 tensor is ignored in"], numbered("model", 3), loads=False
    ),
    "stale, of 4": Case(is_of_an_earlier_save(4), [f"{INDEX} is ignored: it lists model-00001-of-00004"], loads=False),
    "stale, of 1": Case(is_of_an_earlier_save(1), [f"{INDEX} is ignored: it lists model-00001-of-00001"], loads=False),
    "stale, other names": Case(is_of_an_earlier_save(2, "old"), [f"{INDEX} is ignored: it lists old-"], loads=False),
    "stale beside a single file": Case(is_stale_beside_a_single_file, [f"{INDEX} is ignored"], [SINGLE]),
    "stale in part beside a single file": Case(
        is_stale_in_part_beside_a_single_file,
        [f"{INDEX} is ignored: it lists {TWO[1]}, which is missing; the model is {SINGLE}", f"{TWO[0]}: not read"],
        [SINGLE],
    ),
    "beside a folder": Case(beside_a_folder_with_such_a_name, [], [SINGLE], loads=False),
    "stale beside one of its shards": Case(
        is_stale_beside_a_shard_of_its_own,
        [f"{INDEX} is ignored: it lists model-00001-of-00003", "model-00002-of-00003.safetensors: not read"],
        loads=False,
    ),
    "no index": Case(
        without(TWO), [f"has no {INDEX}; the model is the complete set {TWO[0]} to {TWO[1]}"], loads=False
    ),
    "no index, other names": Case(
        without(numbered("a-b-1-of", 3)), [f"has no {INDEX}"], numbered("a-b-1-of", 3), loads=False
    ),
    "no index, no zeros": Case(
        without(numbered("model", 11, 1)), [f"has no {INDEX}"], sorted(numbered("model", 11, 1)), loads=False
    ),
    "no index, of 1": Case(without(numbered("model", 1)), [], [SINGLE], loads=False),
    "leaves out a shard": Case(
        leaves_out("model-mtp-of-00003.safetensors"), ["model-mtp-of-00003.safetensors: not read"]
    ),
    "leaves out Mistral's": Case(
        leaves_out(CONSOLIDATED), [f"{CONSOLIDATED}: not read, because it is the same model in"]
    ),
    "leaves out Mistral's shards": Case(
        leaves_out(*numbered("consolidated", 2), MISTRAL_INDEX), ["00002.safetensors: not read, because it is the same"]
    ),
    "leaves out both": Case(
        leaves_out(CONSOLIDATED, "x.safetensors"), [CONSOLIDATED, "x.safetensors: not read, because"]
    ),
    "leaves out hidden files": Case(leaves_out(*(f"._{name}" for name in [*TWO, INDEX])), []),
    "a single file and others": Case(
        beside_a_single_file(*TWO), [f"{TWO[0]}, {TWO[1]}: not read, because the model is {SINGLE}"], [SINGLE]
    ),
    "a single file and Mistral's": Case(
        beside_a_single_file(CONSOLIDATED, MISTRAL_INDEX), [f"{CONSOLIDATED}: not read"], [SINGLE]
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_model_as_it_was_published(pair: Pair, case: Case) -> None:
    case.lay(pair)
    model = open_checkpoint(pair.folder)
    assert sorted(model.tensors) == sorted(pair.a)
    notes = pair.merge()
    assert notes == model.notes
    assert len(notes) == len(case.words), notes
    for note, words in zip(notes, case.words):
        assert words in note
    merged = merge_reference(pair.a, pair.b, 0.3)
    assert_same_tensors(load(pair.out), merged)
    assert_same_tensors(loaded(pair.out), merged)
    assert sorted(path.name for path in pair.out.glob("*.safetensors")) == sorted(case.shards)
    assert open_checkpoint(pair.out).notes == []
    if case.loads:
        assert_same_tensors(loaded(pair.folder), pair.a)


def test_as_the_second_model(pair: Pair) -> None:
    """The irregular model lends its tensors and notes. The layout is that of the first model."""
    lists_more(pair)
    report = lerp_checkpoint(pair.root / "b", pair.folder, pair.out, 0.3, progress=False, threads=1)
    assert any("which no shard has" in note for note in report.notes)
    assert_same_tensors(load(pair.out), merge_reference(pair.b, pair.a, 0.3))


def test_a_tensor_that_the_index_does_not_list_must_be_in_both_models(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = "model.layers.0.mlp.extra_proj.weight"
    files = parted({**pair.a, extra: pair.a[NORM].clone()}, TWO)
    lay(pair.folder, files, {name: file for name, file in places(files).items() if name != extra})
    argv = ["lerp", str(pair.folder), str(pair.root / "b"), "-o", str(pair.out), "--lam", "0.5"]
    assert_refused(capsys, pair.root, argv, extra, f"which {pair.root / 'b'} lacks")


def test_files_that_are_not_read_are_not_opened(pair: Pair) -> None:
    unread = [CONSOLIDATED, "x.safetensors", MISTRAL_INDEX, "._x.safetensors"]
    leaves_out(*unread)(pair)
    with watched(pair.folder) as events:
        open_checkpoint(pair.folder)
    assert not events.opened & set(unread)


def two_sets(pair: Pair) -> None:
    lay(pair.folder, {**parted(pair.a, TWO), **parted(pair.a, numbered("model", 3))})


def two_sets_and_a_stale_index(pair: Pair) -> None:
    two_sets(pair)
    lay(pair.folder, {}, places(parted(pair.a, numbered("model", 4))))


def a_set_and_a_part(pair: Pair) -> None:
    lay(pair.folder, {**parted(pair.a, TWO), numbered("model", 3)[0]: pair.a})


def a_part(pair: Pair) -> None:
    names = numbered("model", 40)
    lay(pair.folder, {names[1]: pair.a, names[7]: {"x": pair.a[NORM]}})


def a_part_beside_mistrals(pair: Pair) -> None:
    lay(pair.folder, {TWO[0]: pair.a, CONSOLIDATED: pair.a})


def a_broken_download(pair: Pair) -> None:
    files = parted(pair.a, TWO)
    lay(pair.folder, {TWO[0]: files[TWO[0]]}, places(files))


def a_broken_download_of_all(pair: Pair) -> None:
    lay(pair.folder, {"mtp.safetensors": {EXTRA: pair.a[NORM]}}, places(parted(pair.a, TWO)))


def twice_without_an_index(pair: Pair) -> None:
    files = parted(pair.a, TWO)
    lay(pair.folder, {name: {**held, HEAD: pair.a[HEAD]} for name, held in files.items()})


def twice_and_in_a_third(pair: Pair) -> None:
    names = numbered("model", 3)
    files = parted({name: t for name, t in pair.a.items() if name != HEAD}, names)
    for name in names[:2]:
        files[name][HEAD] = pair.a[HEAD]
    lay(pair.folder, files, {**places(files), HEAD: names[2]})


def twice_and_unlisted(pair: Pair) -> None:
    files = {name: {**held, HEAD: pair.a[HEAD]} for name, held in parted(pair.a, TWO).items()}
    lay(pair.folder, files, {name: file for name, file in places(files).items() if name != HEAD})


def no_tensors(pair: Pair) -> None:
    lay(pair.folder, {SINGLE: {}}, {HEAD: SINGLE})


REFUSED: dict[str, tuple[Lay, list[str]]] = {
    "two sets": (two_sets, ["two sets of shards", TWO[0], "model-00003-of-00003", "Remove the set"]),
    "two sets and a stale index": (two_sets_and_a_stale_index, ["two sets of shards", "Remove the set"]),
    "a set and a part": (
        a_set_and_a_part,
        ["model-00002-of-00003.safetensors, model-00003-of-00003.safetensors are missing"],
    ),
    "a part": (
        a_part,
        [
            "has model-00002-of-00040.safetensors, model-00008-of-00040.safetensors, but model-00001-of-00040.",
            "model-00003-of-00040.safetensors, model-00004-of-00040.safetensors and 35 more are missing",
        ],
    ),
    "a part beside Mistral's": (a_part_beside_mistrals, [TWO[1], "missing"]),
    "a broken download": (a_broken_download, [f"{TWO[1]}: missing", "Download"]),
    "a broken download of all": (a_broken_download_of_all, [f"{TWO[0]}: missing", "Download"]),
    "twice, no index": (twice_without_an_index, [f"{HEAD} is in {TWO[0]}, {TWO[1]}", f"Add {INDEX}"]),
    "twice, index says a third": (
        twice_and_in_a_third,
        [HEAD, "puts it in model-00003-of-00003.safetensors", "Correct"],
    ),
    "twice, index silent": (twice_and_unlisted, [f"{HEAD} is in {TWO[0]}, {TWO[1]}", "does not list it"]),
    "no tensors": (no_tensors, ["no tensors in model.safetensors"]),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_nobody_can_guess_is_refused(
    pair: Pair, capsys: pytest.CaptureFixture[str], make: Lay, words: list[str]
) -> None:
    make(pair)
    argv = ["lerp", str(pair.folder), str(pair.root / "b"), "-o", str(pair.out), "--lam", "0.5"]
    assert_refused(capsys, pair.root, argv, *words)


REMEDIES: dict[str, tuple[Lay, Lay]] = {
    "remove the other set": (two_sets, lambda p: [(p.folder / n).unlink() for n in numbered("model", 3)]),
    "remove the part": (a_set_and_a_part, lambda p: (p.folder / numbered("model", 3)[0]).unlink()),
    "add the shard": (a_broken_download, lambda p: lay(p.folder, {TWO[1]: parted(p.a, TWO)[TWO[1]]})),
    "add an index": (twice_without_an_index, lambda p: lay(p.folder, {}, places(parted(p.a, TWO)))),
    "correct the entry": (
        twice_and_unlisted,
        lambda p: lay(p.folder, {}, {**places(parted(p.a, TWO)), HEAD: TWO[1]}),
    ),
}


@pytest.mark.parametrize(("make", "remedy"), REMEDIES.values(), ids=REMEDIES)
def test_the_remedy_works(pair: Pair, make: Lay, remedy: Lay) -> None:
    make(pair)
    with pytest.raises(CheckpointError):
        open_checkpoint(pair.folder)
    remedy(pair)
    pair.merge()
    assert_same_tensors(load(pair.out), merge_reference(pair.a, pair.b, 0.3))


# Mistral's format: other names of tensors, params.json, no config.json.


def mistrals(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"tok_embeddings.weight": (64, 32), "norm.weight": (32,), "output.weight": (64, 32)}
    for i in range(2):
        shapes |= {f"layers.{i}.attention.w{x}.weight": (32, 32) for x in "qkvo"}
        shapes |= {f"layers.{i}.feed_forward.w1.weight": (48, 32), f"layers.{i}.attention_norm.weight": (32,)}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


@pytest.fixture
def mistral(tmp_path: Path) -> Pair:
    """Two models in Mistral's format. The folder of the first one has no weights yet."""
    a, b = mistrals(1), mistrals(2)
    lay(tmp_path / "b", {CONSOLIDATED: b})
    for name in "ab":
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "params.json").write_text(json.dumps({"dim": 32, "n_layers": 2, "from": name}))
        (tmp_path / name / "tekken.json").write_text("{}")
    return Pair(tmp_path, a, b)


def shards_and_index(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if ".safetensors" in path.name}


FOUR = numbered("consolidated", 4)


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("names", [[CONSOLIDATED], FOUR], ids=["one", "four"])
def test_mistrals_format_stays_what_it_is(mistral: Pair, names: list[str], config: bool, indexed: bool) -> None:
    files = parted(mistral.a, names)
    lay(mistral.folder, files, places(files) if indexed else None, MISTRAL_INDEX)
    if config:
        (mistral.folder / "config.json").write_text("{}")
    notes = mistral.merge()
    assert notes == (
        []
        if indexed or len(names) == 1
        else [f"{mistral.folder}: has no {MISTRAL_INDEX}; the model is the complete set {names[0]} to {names[-1]}"]
    )
    assert shards_and_index(mistral.out) == {*names, *([MISTRAL_INDEX] if len(names) > 1 else [])}
    assert json.loads((mistral.out / "params.json").read_text())["from"] == "b"
    assert (mistral.out / "tekken.json").exists()
    assert_same_tensors(load(mistral.out), merge_reference(mistral.a, mistral.b, 0.3))
    if len(names) > 1:
        weight_map = json.loads((mistral.out / MISTRAL_INDEX).read_text())["weight_map"]
        assert weight_map == places(parted(mistral.a, names))
    assert open_checkpoint(mistral.out).notes == []


@pytest.mark.parametrize("names", [[CONSOLIDATED], FOUR], ids=["one", "four"])
def test_new_shards_in_mistrals_format(mistral: Pair, names: list[str]) -> None:
    files = parted(mistral.a, names)
    lay(mistral.folder, files, places(files), MISTRAL_INDEX)
    mistral.merge(max_shard_size=9000)
    made = {path.name for path in mistral.out.glob("*.safetensors")}
    assert made == set(numbered("consolidated", len(made)))
    assert len(made) > 2
    assert shards_and_index(mistral.out) == {*made, MISTRAL_INDEX}
    assert_same_tensors(load(mistral.out), merge_reference(mistral.a, mistral.b, 0.3))
    assert open_checkpoint(mistral.out).notes == []


def test_only_mistrals_format_was_downloaded(mistral: Pair) -> None:
    """`hf download --include "consolidated*" "*.json"` takes the index of the other format along."""
    lay(mistral.folder, {CONSOLIDATED: mistral.a}, {HEAD: TWO[0], NORM: TWO[1]})
    [note] = mistral.merge()
    assert f"{INDEX} is ignored" in note
    assert shards_and_index(mistral.out) == {CONSOLIDATED}


def test_no_note_misses_config_json_in_mistrals_format(mistral: Pair) -> None:
    lay(mistral.folder, {CONSOLIDATED: mistral.a})
    report = lerp_checkpoint(mistral.folder, mistral.root / "b", mistral.out, 0.3, progress=False)
    assert not [note for note in report.notes if "config.json" in note]
    assert not (mistral.out / "config.json").exists()


def test_a_lone_file_of_the_usual_format_gets_the_name_that_loads(pair: Pair) -> None:
    """config.json without params.json describes the format of transformers, whatever the file is called."""
    for name in (CONSOLIDATED, "pytorch_lm.safetensors"):
        lay(pair.folder, {name: pair.a})
        pair.merge(overwrite=True)
        assert shards_and_index(pair.out) == {SINGLE}
        assert_same_tensors(loaded(pair.out), merge_reference(pair.a, pair.b, 0.3))
        (pair.folder / name).unlink()


# The path of one file.


def test_a_file_with_the_config_of_its_folder(pair: Pair) -> None:
    for name in (SINGLE, "any.safetensors"):
        lay(pair.folder, {name: pair.a})
        model = open_checkpoint(pair.folder / name)
        assert (model.source, model.root) == (str(pair.folder / name), str(pair.folder))
        assert model.config["model_type"] == "qwen3"
        assert model.notes == []
        lerp_checkpoint(pair.folder / name, pair.root / "b" / SINGLE, pair.out, 0.3, progress=False, overwrite=True)
        assert_same_tensors(loaded(pair.out), merge_reference(pair.a, pair.b, 0.3))
        (pair.folder / name).unlink()


def test_a_file_that_several_loaders_would_choose_differently(pair: Pair) -> None:
    """The folder is refused, and giving the file is the remedy."""
    files = parted(pair.b, TWO)
    lay(pair.folder, {**files, SINGLE: pair.a}, places(files))
    with pytest.raises(CheckpointError, match="has both"):
        open_checkpoint(pair.folder)
    lerp_checkpoint(pair.folder / SINGLE, pair.root / "b", pair.out, 0.3, progress=False)
    assert_same_tensors(load(pair.out), merge_reference(pair.a, pair.b, 0.3))


@pytest.fixture
def loose(pair: Pair) -> Pair:
    """Both models as files of one folder, which also holds small files of something else."""
    lay(pair.root / "loose", {"a.safetensors": pair.a, "b.safetensors": pair.b})
    for name in ("tokenizer.json", "LICENSE", "README.md", "mi_kernels.json"):
        (pair.root / "loose" / name).write_text("{}")
    return pair


def test_files_without_a_folder_of_their_own(loose: Pair) -> None:
    a, b = (loose.root / "loose" / f"{name}.safetensors" for name in "ab")
    model = open_checkpoint(a)
    assert (model.root, model.config, model.notes) == (str(a), {}, [])
    report = lerp_checkpoint(a, b, loose.root / "loose" / "out", 0.3, progress=False)
    assert f"{b} has no config.json, so the output has no config.json" in report.notes
    out = loose.root / "loose" / "out"
    assert {path.name for path in out.iterdir()} == {
        SINGLE,
        "README.md",
        "mi_kernels.json",
        "mi_kernels.checksums.json",
    }
    assert_same_tensors(load(out), merge_reference(loose.a, loose.b, 0.3))
    card = (out / "README.md").read_text()
    assert "A merge of `a.safetensors` and `b.safetensors`:" in card
    record = json.loads((out / "mi_kernels.json").read_text())
    assert [record[side]["source"] for side in ("instruct", "thinking")] == [str(a), str(b)]


def test_config_and_tokenizer_come_from_the_model_that_has_them(loose: Pair) -> None:
    lay(loose.folder, {SINGLE: loose.a})
    alone = loose.root / "loose" / "b.safetensors"
    report = lerp_checkpoint(loose.folder / SINGLE, alone, loose.out, 0.3, progress=False)
    words = f"{alone} is one file without config.json and tokenizer, so the output has those of {loose.folder / SINGLE}"
    assert words in report.notes
    assert_same_tensors(loaded(loose.out), merge_reference(loose.a, loose.b, 0.3))


def test_a_config_that_may_be_of_another_file_is_not_used(pair: Pair) -> None:
    lay(pair.folder, {"x.safetensors": pair.a, "y.safetensors": pair.b})
    model = open_checkpoint(pair.folder / "x.safetensors")
    assert model.config == {}
    assert (
        [note for note in model.notes if "config.json and other small files are not used" in note] == model.notes != []
    )


def test_a_relative_path(loose: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(loose.root / "loose")
    model = open_checkpoint("a.safetensors")
    assert (model.source, model.root, model.shards) == ("a.safetensors", "a.safetensors", ["a.safetensors"])
    lerp_checkpoint("a.safetensors", "b.safetensors", "out", 0.3, progress=False)
    assert_same_tensors(load(Path("out")), merge_reference(loose.a, loose.b, 0.3))


def test_mistrals_file_beside_the_other_format(mistral: Pair) -> None:
    lay(mistral.folder, {CONSOLIDATED: mistral.a, SINGLE: {HEAD: mistral.a["output.weight"]}})
    (mistral.folder / "config.json").write_text("{}")
    report = lerp_checkpoint(
        mistral.folder / CONSOLIDATED, mistral.root / "b", mistral.out, 0.3, copy_from="instruct", progress=False
    )
    assert report.shards == 1
    assert shards_and_index(mistral.out) == {CONSOLIDATED}
    assert json.loads((mistral.out / "params.json").read_text())["from"] == "a"


def shard_by_name(pair: Pair) -> None:
    lay(pair.folder, parted(pair.a, TWO))


def shard_by_index(pair: Pair) -> None:
    files = parted(pair.a, ["0.safetensors", "1.safetensors"])
    lay(pair.folder, files, places(files))


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (shard_by_name, TWO[0], ["one shard of several", "Give the folder"]),
        (shard_by_index, "1.safetensors", [INDEX, "one shard of several", "Give the folder"]),
        (lambda pair: None, "none.safetensors", ["no such file"]),
        (lambda pair: os.mkfifo(pair.folder / "x.safetensors"), "x.safetensors", ["not a regular file"]),
        (lambda pair: (pair.folder / "x.safetensors").symlink_to("none"), "x.safetensors", ["missing"]),
        (
            lambda pair: (pair.folder / "x.safetensors").write_text("{}"),
            "x.safetensors",
            ["not a valid safetensors file"],
        ),
        (lambda pair: (pair.folder / "x.safetensors").mkdir(), "x.safetensors", ["no safetensors weights"]),
        (
            lambda pair: [(pair.folder / f"adapter_{n}").touch() for n in ("config.json", "model.safetensors")],
            "adapter_model.safetensors",
            ["is an adapter", "BASE+"],
        ),
    ],
)
def test_paths_that_are_no_model(
    pair: Pair, capsys: pytest.CaptureFixture[str], make: Lay, name: str, words: list[str]
) -> None:
    make(pair)
    assert run_cli(["inspect", str(pair.folder / name)]) == 2
    assert_message(capsys.readouterr().err, str(pair.folder / name), *words)


def test_a_file_is_an_input_that_no_output_may_be(loose: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (str(loose.root / "loose" / f"{name}.safetensors") for name in "ab")
    for out, words in ((a, "is the input"), (b, "is the input"), (str(loose.root / "loose"), "contains the input")):
        assert_refused(capsys, loose.root, ["lerp", a, b, "-o", out, "--lam", "0.5", "--overwrite"], words)
    lay(loose.folder, {SINGLE: loose.a})
    inside = str(loose.folder / "out.safetensors")
    argv = ["lerp", str(loose.folder / SINGLE), b, "-o", inside, "--lam", "0.5"]
    assert_refused(capsys, loose.root, argv, "is inside the input")


def test_a_file_as_the_base_of_an_adapter(tmp_path: Path) -> None:
    from ..support.adapters import PLAIN, make_pair, merged

    made = make_pair(tmp_path)
    other = save(tmp_path / "other", {name: t.clone() for name, t in made.base.items()})
    lone = tmp_path / "lone.safetensors"
    write_in_order(lone, made.base)
    lerp_checkpoint(f"{lone}+{made.adapter_folder}", other, tmp_path / "out", 0.3, dtype="fp32", progress=False)
    wide = {name: t.float() for name, t in made.base.items()}
    assert_same_tensors(load(tmp_path / "out"), merge_reference(merged(made, PLAIN), wide, 0.3))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("params", [False, True])
def test_the_output_has_mistrals_names_only_if_something_loads_them(tmp_path: Path, count: int, params: bool) -> None:
    a, b, out = tiny(1), tiny(2), tmp_path / "out"
    lay(tmp_path / "i", parted(a, [CONSOLIDATED] if count == 1 else numbered("consolidated", count)))
    save(tmp_path / "t", b, config={"model_type": "qwen3"})
    if params:
        (tmp_path / "i" / "params.json").write_text("{}")
    for copy_from, mistral in (("thinking", False), ("instruct", True)):
        lerp_checkpoint(tmp_path / "i", tmp_path / "t", out, 0.5, copy_from=copy_from, overwrite=True, progress=False)
        stem = "consolidated" if mistral else "model"
        expected = {f"{stem}.safetensors"} if count == 1 else {*numbered(stem, count), f"{stem}.safetensors.index.json"}
        assert {path.name for path in out.iterdir() if "safetensors" in path.name} == expected
        assert (out / "config.json").exists() != mistral
        assert open_checkpoint(out).notes == []
        assert_same_tensors(load(out), merge_reference(a, b, 0.5))


def test_the_note_on_a_missing_index_names_the_one_that_fits(tmp_path: Path) -> None:
    lay(tmp_path / "m", parted(tiny(1), numbered("consolidated", 2)))
    for name, index in (("params.json", MISTRAL_INDEX), ("config.json", MISTRAL_INDEX), (None, INDEX)):
        if name is not None:
            (tmp_path / "m" / name).write_text("{}")
        else:
            (tmp_path / "m" / "params.json").unlink()
        [note] = open_checkpoint(tmp_path / "m").notes
        assert f"m: has no {index};" in note


@pytest.mark.parametrize("with_adapter", [False, True])
def test_merged_weights_of_any_name_beside_an_adapter(tmp_path: Path, with_adapter: bool) -> None:
    folder = save(tmp_path / "t", tiny(1))
    lay(tmp_path / "t", {"merged.safetensors": tiny(2)})
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    (folder / "adapter_config.json").write_text("{}")
    if with_adapter:
        (folder / "adapter_model.safetensors").write_text("")
    report = lerp_checkpoint(folder, save(tmp_path / "o", tiny(3)), tmp_path / "out", 0, progress=False)
    assert_same_tensors(load(tmp_path / "out"), tiny(2))
    assert [note for note in report.notes if "the adapter is not applied" in note]


def test_an_adapter_of_pickles_is_an_adapter(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.bin", "optimizer.pt"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match="is an adapter, not a model"):
        open_checkpoint(tmp_path)
