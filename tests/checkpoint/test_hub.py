"""Downloads and uploads models by id with the real huggingface_hub, against a stub of the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from mi_kernels import lerp_checkpoint, push, similarity
from mi_kernels.checkpoint.hub import cached_id, looks_like_id
from mi_kernels.errors import ArgumentError, OutputError
from mi_kernels.output.upload import checked_repo

from ..support.adapters import make_pair, write_adapter
from ..support.checks import PROGRAM, World, assert_message
from ..support.hub_stub import READER, TOKEN, Repo, StubHub
from ..support.models import assert_same_tensors, load, qwen3_model, tiny

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def hub() -> Iterator[StubHub]:
    server = StubHub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def call(hub: StubHub, root: Path, *argv: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the program with the stub, an empty cache and no token."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ours |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(root / "home"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    words = [*PROGRAM, *map(str, argv)]
    return subprocess.run(words, capture_output=True, text=True, env={**ours, **environment}, timeout=120)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_model_by_id_and_revision_resumed_and_offline(hub: StubHub, tmp_path: Path) -> None:
    # More than the 10 MB that huggingface_hub writes at a time, so that a partial file can be resumed.
    wide = {"model.embed_tokens.weight": torch.ones(1 << 10, 11 << 10, dtype=torch.bfloat16)}
    world = World(tmp_path / "w", a={**tiny(1), **wide}, b={**tiny(2), **wide})
    hub.repos["org/a"] = Repo()
    hub.repos["org/a"].add(files_of(world.thinking), "main")
    commit = hub.repos["org/a"].add({**files_of(world.instruct), "evil.pkl": b"code"}, "v1")
    argv = ["lerp", "org/a@v1", world.thinking, "-o", world.out, "--lam", "0.5", "--quiet"]
    shards = sorted(path.name for path in world.instruct.glob("*.safetensors"))
    large, small = sorted(shards, key=lambda name: -(world.instruct / name).stat().st_size)

    hub.cut, hub.failing = large, small
    failed = call(hub, tmp_path, *argv)
    assert failed.returncode == 2
    assert "org/a@v1: no such folder, and the download from the Hub failed" in failed.stderr
    assert not world.out.exists()
    # The large file was interrupted once, but resumed and completed: it is not downloaded again.
    hub.failing = None
    first = call(hub, tmp_path, "inspect", "org/a@v1")
    assert first.returncode == 0, first.stderr
    begins = [begin for path, begin in hub.ranges if path == large]
    assert begins[0] == 0 < begins[1]
    assert len(begins) == 2
    assert len([path for path, _ in hub.ranges if path == small]) == 1

    hub.ranges = []
    done = call(hub, tmp_path, *argv)
    assert (done.returncode, done.stderr) == (0, "")
    assert hub.ranges == []
    expected = tmp_path / "expected"
    lerp_checkpoint(world.instruct, world.thinking, expected, 0.5, progress=False, threads=1)
    assert_same_tensors(load(world.out), load(expected))
    record = json.loads((world.out / "mi_kernels.json").read_text())
    assert (record["instruct"]["source"], record["instruct"]["revision"]) == ("org/a@v1", commit)
    assert not [request for request in hub.requests if request.endswith("evil.pkl")]

    hub.requests = []
    again = call(hub, tmp_path, *argv, "--overwrite", HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stderr) == (0, "")
    assert hub.requests == []
    absent = call(hub, tmp_path, "inspect", "org/a", HF_HUB_OFFLINE="1")
    assert absent.returncode == 2
    assert_message(absent.stderr, "org/a", "offline")


@pytest.mark.parametrize(("source", "words"), [("org/nobody", "org/nobody"), ("org/a@v9", "org/a@v9")])
def test_unknown_ids_and_revisions(hub: StubHub, tmp_path: Path, source: str, words: str) -> None:
    hub.repos["org/a"] = Repo()
    hub.repos["org/a"].add({"config.json": b"{}"})
    done = call(hub, tmp_path, "inspect", source)
    assert done.returncode == 2
    assert_message(done.stderr, words, "the download from the Hub failed")


def test_push(hub: StubHub, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        qwen3_model(seed, tied=True).save_pretrained(tmp_path / name)
        card = f"---\nlicense: apache-2.0\nlanguage: [en]\npipeline_tag: text-generation\nseed: {seed}\n---\n# {name}\n"
        (tmp_path / name / "README.md").write_text(card)
    out = tmp_path / "it's out"
    argv = ["lerp", tmp_path / "a", tmp_path / "b", "-o", out, "--lam", "0.25", "--push", "me/merge", "--private"]
    done = call(hub, tmp_path, *argv, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{hub.address}/me/merge"
    repo = hub.repos["me/merge"]
    assert repo.private
    assert len(repo.commits) == 1
    assert repo.commits[repo.names["main"]] == files_of(out)

    readme = (out / "README.md").read_text()
    front = yaml.safe_load(readme.split("---")[1])
    assert front == {
        "base_model": ["a", "b"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "mi_kernels"],
        "pipeline_tag": "text-generation",
        "language": ["en"],
        "license": "apache-2.0",
    }
    command = f"mi-kernels lerp {tmp_path}/a {tmp_path}/b -o '{tmp_path}/it'\"'\"'s out' --lam 0.25 --push me/merge"
    assert f"\n{command} --private\n" in readme
    sigma = similarity(tmp_path / "a", tmp_path / "b", progress=False).overall.sigma
    assert f"sigma = {sigma:.4g}," in readme

    # Another layout of the same model: the same commit deletes the files of the first one.
    second = call(hub, tmp_path, *argv, "--overwrite", "--max-shard-size", "20KB", "--json", HF_TOKEN=TOKEN)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["pushed"] == f"{hub.address}/me/merge"
    assert len(repo.commits) == 2
    assert repo.commits[repo.names["main"]] == files_of(out)
    assert "model.safetensors" not in files_of(out)


def test_subfolders_of_a_model_are_downloaded_and_pushed(hub: StubHub, tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    modules = [{"path": ""}, {"path": "2_Dense"}]
    inside = {"2_Dense/config.json": b"{}", "2_Dense/model.safetensors": (world.thinking / SHARD).read_bytes()}
    hub.repos["org/b"] = Repo()
    hub.repos["org/b"].add({**files_of(world.thinking), "modules.json": json.dumps(modules).encode(), **inside})
    hub.repos["me/merge"] = Repo()
    hub.repos["me/merge"].add({"2_Dense/old.safetensors": b"old", "1_Pooling/config.json": b"{}"})
    argv = ["lerp", world.instruct, "org/b", "-o", world.out, "--lam", "0.5", "--push", "me/merge"]
    done = call(hub, tmp_path, *argv, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    pushed = hub.repos["me/merge"].commits[hub.repos["me/merge"].names["main"]]
    assert {name: pushed[name] for name in inside} == inside
    assert "2_Dense/old.safetensors" not in pushed
    assert call(hub, tmp_path, "verify", world.out).returncode == 0


def test_the_tokenizer_of_an_adapter_is_downloaded(hub: StubHub, tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    write_adapter(tmp_path / "a", pair.adapter)
    hub.repos["org/a"] = Repo()
    hub.repos["org/a"].add({**files_of(tmp_path / "a"), "chat_template.jinja": b"{{ x }}", "optimizer.pt": b"x"})
    done = call(hub, tmp_path, "lerp", f"{pair.folder}+org/a", pair.folder, "-o", tmp_path / "out", "--lam", "0.5")
    assert done.returncode == 0, done.stderr
    assert "only org/a has a chat template; the output has none" in done.stdout
    assert not [request for request in hub.requests if request.endswith("optimizer.pt")]


def test_push_of_a_sweep(hub: StubHub, tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    argv = ["sweep", world.instruct, world.thinking, "-o", world.root / "mi-{lam}", "--lam", "0.25,0.5"]
    done = call(hub, tmp_path, *argv, "--push", "me/mi-{lam}", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert sorted(hub.repos) == ["me/mi-0.25", "me/mi-0.5"]
    for name, repo in hub.repos.items():
        assert repo.commits[repo.names["main"]] == files_of(world.root / name.removeprefix("me/"))
    refused = call(hub, tmp_path, *argv, "--push", "me/mi", "--overwrite", HF_TOKEN=TOKEN)
    assert refused.returncode == 2
    assert_message(refused.stderr, "where lam goes")


PUSH_REFUSALS = {
    "no token": ({}, ["me/x"], ["no valid Hub token", "hf auth login"], False),
    "a wrong token": ({"HF_TOKEN": "hf_wrong"}, ["me/x"], ["no valid Hub token"], False),
    "offline": ({"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}, ["me/x"], ["HF_HUB_OFFLINE"], False),
    "no id": ({"HF_TOKEN": TOKEN}, ["x"], ["ORG/NAME"], False),
    "no permission": ({"HF_TOKEN": READER}, ["me/x"], ["no write permission", "is complete", "hf upload me/x"], True),
    "public": ({"HF_TOKEN": TOKEN}, ["me/public", "--private"], ["is public", "Nothing was uploaded"], True),
}


@pytest.mark.parametrize("case", PUSH_REFUSALS)
def test_refused_pushes(hub: StubHub, tmp_path: Path, case: str) -> None:
    environment, push, words, merged = PUSH_REFUSALS[case]
    world = World(tmp_path / "w")
    hub.repos["me/public"] = Repo()
    done = call(hub, tmp_path, *world.argv("--quiet", "--push", *push), **environment)
    assert done.returncode == 2
    assert_message(done.stderr, *words)
    assert world.out.exists() == merged
    assert hub.repos["me/public"].commits == {}
    assert len(hub.repos) == 1


def test_a_folder_without_weights_is_not_pushed(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="has no safetensors weights"):
        push(tmp_path, "me/x")


@pytest.mark.parametrize("repo", ["name", "a/b/c", "../b", "a/..", "a/b c", "", "a/b-{lam}"])
def test_ids(repo: str) -> None:
    with pytest.raises(ArgumentError, match="ORG/NAME"):
        checked_repo(repo)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/c/models--Qwen--Qwen3-4B/snapshots/0a1b", "Qwen/Qwen3-4B"),
        ("/c/models--Qwen--Qwen3-4B/snapshots/0a1b/config.json", "Qwen/Qwen3-4B"),
        ("models--org--a--b/snapshots/0a1b", "org/a--b"),
        ("/c/models--gpt2/snapshots/0a1b", "gpt2"),
        ("/c/models--Qwen--Qwen3-4B", None),
        ("/c/datasets--them--toy/snapshots/0a1b", None),
        ("/c/Qwen3-4B", None),
    ],
)
def test_a_snapshot_in_the_cache_has_an_id(path: str, found: str | None) -> None:
    assert cached_id(path) == found


def test_a_relative_path_is_no_id() -> None:
    assert looks_like_id("org/name")
    assert looks_like_id("org/name@refs/pr/3")
    assert not any(map(looks_like_id, ("./name", "../name", "org/..", "name", "a/b/c", "~/name")))
