"""Chooses the files of a repository by their names: for every kind of repository, and for indexes from attackers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mi_kernels.checkpoint.needed_files import (
    LARGE,
    File,
    Repository,
    adapter_files,
    model_files,
    unselected,
)
from mi_kernels.errors import CheckpointError

from ..support.models import INDEX, SINGLE

CONSOLIDATED_INDEX = "consolidated.safetensors.index.json"
TWO = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
MISTRAL_TWO = ["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"]
MISTRAL_ONE = ["consolidated.safetensors"]
X_TWO = ["x-1-of-2.safetensors", "x-2-of-2.safetensors"]
MANY = [f"{i}.safetensors" for i in range(10_001)]
COPIES = [
    *("original/model.safetensors", "original/consolidated.00.pth", "onnx/model.onnx", "onnx/config.json"),
    *("checkpoint-500/model.safetensors", "eval/samples.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("model.gguf", "tf_model.h5", "optimizer.pt", "model.safetensors.index.fp16.json", ".gitattributes", "loss.png"),
]


def index_of(*names: str) -> bytes:
    return json.dumps({"weight_map": {f"w{i}": name for i, name in enumerate(names)}}).encode()


def choose(tmp_path: Path, names: list[str], contents: dict[str, bytes] | None = None) -> tuple[list[str], list[str]]:
    """Returns the names of both steps of a model. The files with `contents` are in the snapshot after the first one."""
    contents = contents or {}
    repository = Repository("org/a", str(tmp_path), {n: File(len(contents.get(n, b""))) for n in (*names, *contents)})
    steps = model_files(repository)
    small = next(steps)
    for name in small:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(contents.get(name, b""))
    [large] = steps
    return sorted(small), sorted(large)


SMALL = [
    *(
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "merges.txt",
        "tokenizer.model",
    ),
    *("qwen.tiktoken", "modeling_x.py", "LICENSE", "License.md", "NOTICE", "README.md", "params.json", "tekken.json"),
]
CHOICES = {
    "an index": ({INDEX: index_of(*TWO)}, TWO, [INDEX], TWO),
    "an index and Mistral's format": (
        {INDEX: index_of(*TWO), CONSOLIDATED_INDEX: index_of(*MISTRAL_TWO)},
        [*TWO, *MISTRAL_TWO, "consolidated.safetensors"],
        [INDEX],
        TWO,
    ),
    "an index of one file": ({INDEX: index_of(SINGLE)}, [SINGLE], [INDEX], [SINGLE]),
    "an index of another name": ({"x.safetensors.index.json": index_of(*TWO)}, TWO, ["x.safetensors.index.json"], TWO),
    "a shard that the index leaves out": ({INDEX: index_of(*TWO)}, [*TWO, "mtp.safetensors"], [INDEX], TWO),
    "an index of an earlier save": ({INDEX: index_of("model-00001-of-00004.safetensors")}, TWO, [INDEX], TWO),
    "one file": ({}, [SINGLE, "model.fp16.safetensors"], [], [SINGLE]),
    "one file and Mistral's format": (
        {CONSOLIDATED_INDEX: index_of(*MISTRAL_TWO)},
        [SINGLE, *MISTRAL_TWO],
        [],
        [SINGLE],
    ),
    "a set without an index": ({}, [*TWO, "consolidated.safetensors", "mtp.safetensors"], [], TWO),
    "a set of another name": ({}, ["x-1-of-2.safetensors", "x-2-of-2.safetensors"], [], None),
    "a file of another name": ({}, ["merged.safetensors"], [], None),
    "a merged model beside its adapter": ({}, [SINGLE, "adapter_model.safetensors"], [], [SINGLE]),
    "only Mistral's format": ({}, ["consolidated.safetensors"], [], None),
    "only Mistral's format, with an index": (
        {CONSOLIDATED_INDEX: index_of(*MISTRAL_TWO)},
        MISTRAL_TWO,
        [CONSOLIDATED_INDEX],
        MISTRAL_TWO,
    ),
    "a file beside Mistral's format": ({}, ["consolidated.safetensors", "eagle.safetensors"], [], MISTRAL_ONE),
    # As of a folder: the index is left from an earlier save.
    "a stale index beside one file": ({INDEX: index_of(*TWO)}, [SINGLE], [INDEX], [SINGLE]),
    "a stale index of a part beside one file": ({INDEX: index_of(*TWO)}, [SINGLE, TWO[0]], [INDEX], [SINGLE]),
    "a stale index beside a set of another name": ({INDEX: index_of(*TWO)}, X_TWO, [INDEX], X_TWO),
    "a stale index beside Mistral's format": (
        {INDEX: index_of(*TWO), CONSOLIDATED_INDEX: index_of(*MISTRAL_TWO)},
        MISTRAL_TWO,
        [INDEX, CONSOLIDATED_INDEX],
        MISTRAL_TWO,
    ),
}


@pytest.mark.parametrize("case", CHOICES)
def test_what_a_model_needs(tmp_path: Path, case: str) -> None:
    contents, weights, indexes, chosen = CHOICES[case]
    small, large = choose(tmp_path, [*SMALL, *COPIES, *weights], contents)
    assert small == sorted([*SMALL, *(contents if indexes is None else indexes)])
    assert large == sorted(weights if chosen is None else chosen)


BAD_NAME = "not the name of a safetensors file in this folder"
REFUSED: dict[str, tuple[dict[str, bytes], list[str], str]] = {
    "a shard that is missing": (
        {INDEX: index_of(*TWO, "model-00003-of-00003.safetensors")},
        [TWO[0], "model-00003-of-00003.safetensors"],
        "org/a: the repository lacks model-00002-of-00002",
    ),
    "many shards": (
        {INDEX: index_of(*MANY)},
        MANY,
        "lists 10,001 files, more than 10,000",
    ),
    "two models": (
        {INDEX: index_of(*TWO)},
        [*TWO, SINGLE],
        f"org/a: has both {SINGLE} and {INDEX}.*`hf download org/a {SINGLE}`, then give the path",
    ),
    "several indexes": (
        {f"{x}.safetensors.index.json": index_of(*TWO) for x in "xy"},
        TWO,
        "org/a: has several indexes.*hf download org/a --exclude y.safetensors.index.json --local-dir",
    ),
    "two sets": (
        {},
        [*TWO, *X_TWO],
        "org/a: has two sets of shards.*hf download org/a --exclude 'x-[*]-of-2.safetensors' --local-dir FOLDER",
    ),
    "several files": ({}, ["a.safetensors", "b.safetensors"], "has a.safetensors, b.safetensors.*download org/a a.saf"),
    "half of a set": ({}, TWO[1:], "model-00001-of-00002.safetensors is missing.*upload"),
    "a set that counts too far": ({}, ["model-00001-of-99999999.safetensors"], "99,999,995 more are missing"),
    "only an adapter": ({"adapter_config.json": b"{}"}, ["adapter_model.safetensors"], "is an adapter, not a model"),
    "only pickles": ({}, [], "org/a: has only pickled weights"),
    # Indexes from attackers.
    "names in other folders": ({INDEX: index_of(*TWO, "../../secret.safetensors")}, TWO, BAD_NAME),
    "an absolute name": ({INDEX: index_of("/etc/x.safetensors")}, TWO, BAD_NAME),
    "a subfolder": ({INDEX: index_of("original/model.safetensors")}, TWO, BAD_NAME),
    "no safetensors": ({INDEX: index_of("pytorch_model.bin")}, TWO, BAD_NAME),
    "numbers for names": ({INDEX: b'{"weight_map": {"a": 1}}'}, TWO, BAD_NAME),
    "a list": ({INDEX: b'["model.safetensors"]'}, TWO, "not a JSON object"),
    "a list for a weight_map": ({INDEX: b'{"weight_map": ["model.safetensors"]}'}, TWO, "no weight_map"),
    "no JSON": ({INDEX: b"\xff{"}, TWO, "not valid JSON"),
    "deep JSON": ({INDEX: b"[" * 200_000}, TWO, "not valid JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_are_refused_before_the_download(tmp_path: Path, case: str) -> None:
    contents, names, words = REFUSED[case]
    with pytest.raises(CheckpointError, match=r"(?s)^[^\n]+\n[^\n]+$") as refused:
        choose(tmp_path, [*SMALL, *COPIES, *names], contents)
    assert re.search(f"(?s){words}", str(refused.value)), refused.value


def test_a_large_index_is_refused_and_other_large_files_are_announced(tmp_path: Path) -> None:
    files = {name: File(LARGE + 1) for name in (INDEX, SINGLE)}
    with pytest.raises(CheckpointError, match=f"org/a: {INDEX} is larger than 64 MiB"):
        next(model_files(Repository("org/a", str(tmp_path), files)))
    files = {"config.json": File(LARGE), "train.json": File(LARGE + 1), SINGLE: File(1)}
    repository = Repository("org/a", str(tmp_path), files)
    assert list(model_files(repository)) == [["config.json"], [SINGLE, "train.json"]]
    assert [name for name in files if repository.is_large(name)] == ["train.json", SINGLE]


@pytest.mark.parametrize("path", ["2_Dense", "./2_Dense/", "2_Dense/."])
def test_the_modules_of_sentence_transformers(tmp_path: Path, path: str) -> None:
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": path}, {"path": 7}, {}, 8]
    router = {"types": {"query_0_Dense": "Dense"}}
    needed = [
        *("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "2_Dense/sub/LICENSE"),
        *("2_Dense/own.py", "2_Dense/words.csv", "query_0_Dense/model.safetensors"),
    ]
    others = [
        *("2_Dense/pytorch_model.bin", "2_Dense/onnx/config.json", "2_Dense/checkpoint-5/model.safetensors"),
        *("2_Dense/.git/config.json", "2_Dense/README.md", "2_Dense/openvino/x.safetensors"),
        *("20_Dense/config.json", "onnx/2_Dense/config.json", "3_Normalize/config.json", "up/x.json"),
    ]
    contents = {"modules.json": json.dumps(modules).encode(), "router_config.json": json.dumps(router).encode()}
    small, large = choose(tmp_path, [SINGLE, *needed, *others], contents)
    assert (small, large) == ([*contents], sorted([*needed, SINGLE]))
    repository = Repository("org/a", str(tmp_path), {n: File(1) for n in (*contents, SINGLE, *needed, *others)})
    assert "2_Dense/pytorch_model.bin" in unselected(repository, [*small, *large])


@pytest.mark.parametrize("path", ["../up", "/", ".git", "/etc"])
def test_modules_in_other_folders(tmp_path: Path, path: str) -> None:
    """A merge that would copy them is refused."""
    contents = {"modules.json": json.dumps([{"path": "2_Dense"}, {"path": path}]).encode()}
    assert choose(tmp_path, [SINGLE, "up/x.json", ".git/x.json"], contents)[1] == [SINGLE]


def test_code_for_generation_and_text_for_code(tmp_path: Path) -> None:
    needed = ["custom_generate/generate.py", "custom_generate/requirements.txt", "labels.csv", "words.tsv"]
    others = ["custom_generate/data.json", "custom_generate/.x/y.py", "x/custom_generate/generate.py"]
    assert choose(tmp_path, [SINGLE, *needed, *others])[0] == needed


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b'{"path": "2_Dense"}', b"\xff"])
def test_a_broken_list_of_modules(tmp_path: Path, content: bytes) -> None:
    assert choose(tmp_path, [SINGLE, "2_Dense/config.json"], {"modules.json": content})[1] == [SINGLE]


def test_templates_in_their_folder(tmp_path: Path) -> None:
    templates = ["additional_chat_templates/tool_use.jinja", "additional_chat_templates/a/b.jinja"]
    others = ["additional_chat_templates/x.json", "x/chat_template.jinja"]
    assert choose(tmp_path, [SINGLE, *templates, *others])[0] == sorted(templates)


def test_what_an_adapter_needs(tmp_path: Path) -> None:
    small = [
        *("adapter_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja"),
        *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
        "additional_chat_templates/tool_use.jinja",
    ]
    weights = ["adapter_model.safetensors"]
    others = [
        "adapter_model.bin",
        "model.safetensors",
        "trainer_state.json",
        "checkpoint-5/tokenizer.json",
        "README.md",
    ]
    repository = Repository("org/a", str(tmp_path), {name: File(1) for name in (*others, *weights, *small)})
    first, second = adapter_files(repository)
    assert (sorted(first), second) == (sorted(small), weights)
    assert unselected(repository, [*first, *second]) == [name for name in others if "/" not in name]


def test_what_is_left_out(tmp_path: Path) -> None:
    mistral = ["consolidated.safetensors", CONSOLIDATED_INDEX]
    names = [*TWO, SINGLE, "pytorch_model.bin", "a/b.bin", *mistral]
    repository = Repository("org/a", str(tmp_path), {name: File(1) for name in names})
    assert unselected(repository, TWO) == [SINGLE, "pytorch_model.bin"]
    assert unselected(repository, mistral) == [*TWO, SINGLE, "pytorch_model.bin"]
