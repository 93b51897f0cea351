"""Downloads and uploads models by id with the real huggingface_hub, against a stub of the Hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load as load_bytes
from safetensors.torch import save

from mi_kernels import CheckpointError, lerp_checkpoint, open_checkpoint, push, similarity
from mi_kernels.checkpoint.hub import cached_id, looks_like_id
from mi_kernels.errors import ArgumentError, OutputError
from mi_kernels.output.upload import checked_repo
from mi_kernels.system.sizes import show_bytes

from ..support.adapters import make_pair, write_adapter
from ..support.checks import PROGRAM, World, assert_message
from ..support.hub_stub import READER, TOKEN, Repo, StubHub
from ..support.models import CONFIG, INDEX, assert_same_tensors, load, merge_reference, qwen3_model, tiny

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
    """Runs the program with the stub, a cache below `root` and no token."""
    return run(hub, root, [*PROGRAM, *argv], **environment)


def run(
    hub: StubHub, root: Path, words: Sequence[object], cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ours |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(root / "home"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, env={**ours, **environment}, cwd=cwd, timeout=120
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def publish(hub: StubHub, repo: str, files: dict[str, bytes]) -> str:
    hub.repos.setdefault(repo, Repo())
    return hub.repos[repo].add(files)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What was printed on stderr, without the progress bars of huggingface_hub."""
    return "".join(f"{line}\n" for line in done.stderr.splitlines() if line and not line.startswith("Fetching"))


def different(*names: str) -> dict[str, bytes]:
    """Returns small files. The cache stores equal ones only once, so they differ."""
    return {name: json.dumps({name: 0}).encode() for name in names}


def fetched(hub: StubHub, repo: str) -> list[str]:
    """The files of the repository that were downloaded, in order."""
    return [found[1] for r in hub.requests if (found := re.fullmatch(rf"GET /{repo}/resolve/\w+/(.+)", r))]


TWO = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
CONSOLIDATED_INDEX = "consolidated.safetensors.index.json"
TEMPLATE = "additional_chat_templates/tool_use.jinja"


def weights(*names: str, seed: int = 1) -> dict[str, bytes]:
    """Returns files that have together the tensors of a tiny model."""
    tensors = list(tiny(seed).items())
    return {name: save(dict(tensors[i :: len(names)]), {"format": "pt"}) for i, name in enumerate(names)}


def index_of(files: dict[str, bytes]) -> bytes:
    weight_map = {tensor: name for name, data in files.items() for tensor in load_bytes(data)}
    return json.dumps({"metadata": {}, "weight_map": weight_map}).encode()


SHARDS = weights(*TWO)
ONE = weights("model.safetensors")
SMALL = {
    "config.json": json.dumps(CONFIG).encode(),
    **different("generation_config.json", "tokenizer.json", "chat_template.jinja", "LICENSE", "README.md", TEMPLATE),
}
COPIES = {
    **{f"{folder}/model.safetensors": ONE["model.safetensors"] for folder in ("original", "checkpoint-500", "eval")},
    **different("pytorch_model.bin", "pytorch_model.bin.index.json", "model.gguf", "onnx/model.onnx"),
    **different("original/params.json", "eval/samples.json", "checkpoint-500/config.json"),
}
MISTRAL = {"consolidated.safetensors": weights("x", seed=2)["x"]}
MISTRAL_TWO = weights("consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors")
MODULES = {
    "modules.json": b'[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]',
    "router_config.json": b'{"types": {"query_0_Dense": "Dense"}}',
    **different("query_0_Dense/config.json", "custom_generate/generate.py", "labels.csv"),
    **different("1_Pooling/config.json", "2_Dense/config.json"),
    "2_Dense/model.safetensors": weights("x", seed=3)["x"],
}
# What is downloaded of each repository, its other files, and why it is refused.
REPOSITORIES: dict[str, tuple[dict[str, bytes], dict[str, bytes], tuple[str, ...]]] = {
    "sharded": ({**SHARDS, INDEX: index_of(SHARDS)}, {**MISTRAL, CONSOLIDATED_INDEX: index_of(MISTRAL)}, ()),
    "single": (ONE, {**MISTRAL_TWO, CONSOLIDATED_INDEX: index_of(MISTRAL_TWO)}, ()),
    "named": ({"merged.safetensors": ONE["model.safetensors"]}, {}, ()),
    "odd": ({"a [1]*.safetensors": ONE["model.safetensors"]}, {}, ()),
    "embedding": (
        {**ONE, **MODULES},
        different("2_Dense/pytorch_model.bin", "2_Dense/onnx/config.json", "3_Other/config.json", "token.json"),
        (),
    ),
    "mistral": ({**MISTRAL, **different("params.json")}, {}, ()),
    "mistral-two": ({**MISTRAL_TWO, CONSOLIDATED_INDEX: index_of(MISTRAL_TWO), **different("params.json")}, {}, ()),
    "pickles": ({}, {}, ("has only pickled weights (pytorch_model.bin)",)),
    "adapter": (
        {"adapter_config.json": b"{}"},
        {"adapter_model.safetensors": b"x"},
        ("is an adapter", "Write BASE+org/adapter to add"),
    ),
    "two": ({INDEX: index_of(SHARDS)}, {**SHARDS, **ONE}, (f"has both model.safetensors and {INDEX}",)),
    "several": ({}, weights("a.safetensors", "b.safetensors"), ("has a.safetensors, b.safetensors, but",)),
    "lacking": ({INDEX: index_of(SHARDS)}, {TWO[0]: SHARDS[TWO[0]]}, (f"org/lacking: the repository lacks {TWO[1]}",)),
    "stale": ({INDEX: index_of(SHARDS), **ONE}, {TWO[0]: SHARDS[TWO[0]]}, ()),
    "two-sets": (
        {},
        {**SHARDS, **weights("x-1-of-2.safetensors", "x-2-of-2.safetensors")},
        ("has two sets of shards",),
    ),
    "path": (
        {INDEX: json.dumps({"weight_map": {"a": TWO[0], "b": "../../../x.safetensors"}}).encode()},
        SHARDS,
        ("puts b in '../../../x.safetensors'",),
    ),
    "subfolder": (
        {INDEX: json.dumps({"weight_map": {"a": "original/model.safetensors"}}).encode()},
        SHARDS,
        ("puts a in 'original/model.safetensors'",),
    ),
    "huge": ({}, {**SHARDS, INDEX: bytes((64 << 20) + 1)}, (f"org/huge: {INDEX} is larger than 64 MiB",)),
}


def test_only_the_files_that_a_model_needs_are_downloaded(hub: StubHub, tmp_path: Path) -> None:
    ids = [f"org/{name}" for name in REPOSITORIES]
    for repo, (needed, others, _) in zip(ids, REPOSITORIES.values()):
        publish(hub, repo, {**COPIES, **others, **needed, **SMALL})
    code = """if True:
        import json, sys
        from mi_kernels import CheckpointError, open_checkpoint
        for source in sys.argv[1:]:
            try:
                print(json.dumps([list(open_checkpoint(source).tensors), ""]))
            except CheckpointError as error:
                print(json.dumps([[], str(error)]))
        """
    done = run(hub, tmp_path, [sys.executable, "-c", code, *ids])
    assert done.returncode == 0, done.stderr
    for repo, line, (needed, _, refused) in zip(ids, done.stdout.splitlines(), REPOSITORIES.values()):
        got = fetched(hub, repo)
        assert sorted(got) == sorted(["config.json", "README.md"] if repo == "org/huge" else {**needed, **SMALL}), repo
        tensors, message = json.loads(line)
        for word in refused:
            assert word in message
        assert bool(tensors) == (not refused), message
        before_weights = list(takewhile(lambda name: not name.endswith(".safetensors"), got))
        assert set(before_weights) >= {name for name in got if name.endswith(".index.json")}


def test_a_merge_by_ids(hub: StubHub, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        shards = weights(*TWO, seed=seed)
        publish(hub, f"org/{name}", {**SMALL, **COPIES, **MISTRAL, **shards, INDEX: index_of(shards)})
    done = call(hub, tmp_path, "lerp", "org/a", "org/b", "-o", tmp_path / "out", "--lam", "0.5")
    assert done.returncode == 0, done.stderr
    assert_same_tensors(load(tmp_path / "out"), merge_reference(tiny(0), tiny(1), 0.5))
    for repo in ("org/a", "org/b"):
        assert sorted(fetched(hub, repo)) == sorted([*SMALL, INDEX, *TWO])


def size_line(repo: str, files: dict[str, bytes], weights: Sequence[str]) -> str:
    part, whole = (show_bytes(sum(len(files[name]) for name in names)) for names in (weights, files))
    plural = "s" if len(weights) > 1 else ""
    return f"{repo}: downloading {part} in {len(weights)} file{plural} (of {whole} in the repository)\n"


def test_the_size_is_said_before_the_download(hub: StubHub, tmp_path: Path) -> None:
    files = {**SMALL, **COPIES, **MISTRAL, **SHARDS, INDEX: index_of(SHARDS)}
    publish(hub, "org/a", files)
    assert said(call(hub, tmp_path, "inspect", "org/a@main")) == size_line("org/a@main", files, TWO)
    assert said(call(hub, tmp_path, "inspect", "org/a")) == ""

    # Another commit with the same weights: only what is new is downloaded.
    publish(hub, "org/a", {**files, "README.md": b"# Other"})
    hub.requests = []
    assert said(call(hub, tmp_path, "inspect", "org/a")) == ""
    assert fetched(hub, "org/a") == ["README.md"]
    files = {**files, TWO[1]: weights(*TWO, seed=2)[TWO[1]]}
    publish(hub, "org/a", files)
    assert said(call(hub, tmp_path, "inspect", "org/a")) == size_line("org/a", files, TWO[1:])

    for number, command in enumerate((["inspect", "--json"], ["compare", "--json", "org/a"])):
        done = call(hub, tmp_path / str(number), *command, "org/a")
        assert (done.returncode, done.stderr) == (0, "")


def test_a_disk_that_is_too_small(hub: StubHub, tmp_path: Path) -> None:
    publish(hub, "org/a", {**SMALL, **SHARDS, INDEX: index_of(SHARDS)})
    code = """if True:
        import shutil, sys
        from mi_kernels.cli import main
        real = shutil.disk_usage
        shutil.disk_usage = lambda path: real(path)._replace(free=1_000_000)
        sys.exit(main(["inspect", "org/a"]))
        """
    done = run(hub, tmp_path, [sys.executable, "-c", code])
    assert done.returncode == 2
    size = show_bytes(sum(map(len, SHARDS.values())))
    cache = tmp_path / "home" / "hub"
    assert_message(said(done), f"org/a: the download needs {size}, but {cache} has 1 MB free", "HF_HOME")
    assert not set(SHARDS) & set(fetched(hub, "org/a"))
    assert call(hub, tmp_path, "inspect", "org/a").returncode == 0


def test_a_model_that_another_program_downloaded(hub: StubHub, tmp_path: Path) -> None:
    files = {**SMALL, **COPIES, **ONE, **MODULES, **MISTRAL}
    publish(hub, "org/a", files)
    code = "import huggingface_hub as h; h.snapshot_download('org/a')"
    assert run(hub, tmp_path, [sys.executable, "-c", code]).returncode == 0
    hub.requests = []
    online = call(hub, tmp_path, "inspect", "org/a", "--json")
    assert (online.returncode, online.stderr, fetched(hub, "org/a")) == (0, "", [])

    # File by file, as transformers does: huggingface_hub then has no list of the repository.
    other = tmp_path / "other"
    code = "import huggingface_hub as h; [h.hf_hub_download('org/a', n) for n in ('config.json', 'model.safetensors')]"
    assert run(hub, other, [sys.executable, "-c", code]).returncode == 0
    hub.requests = []
    offline = call(hub, other, "inspect", "org/a", "--json", HF_HUB_OFFLINE="1")
    assert (offline.returncode, hub.requests) == (0, [])
    one, two = json.loads(online.stdout), json.loads(offline.stdout)
    assert [note for note in one.pop("notes") if "Mistral's format" in note]  # only that folder has these files
    assert two.pop("notes") == []
    assert one == two


def test_offline_after_online(hub: StubHub, tmp_path: Path) -> None:
    shards = {**SHARDS, INDEX: index_of(SHARDS)}
    commit = publish(hub, "org/a", {**SMALL, **COPIES, **MISTRAL, **MODULES, **shards})
    online = call(hub, tmp_path, "inspect", "org/a", "--json")
    assert online.returncode == 0, online.stderr
    hub.requests = []
    for source in ("org/a", f"org/a@{commit}"):
        offline = call(hub, tmp_path, "inspect", source, "--json", HF_HUB_OFFLINE="1")
        assert offline.returncode == 0, offline.stderr
    if hasattr(huggingface_hub, "get_cached_repo_tree"):  # a commit that is complete needs no request
        assert call(hub, tmp_path, "inspect", f"org/a@{commit}").returncode == 0
    assert not [request for request in hub.requests if "org/a" in request]
    unreachable = call(hub, tmp_path, "inspect", "org/a", "--json", HF_ENDPOINT="http://127.0.0.1:9")
    assert unreachable.stdout == online.stdout, unreachable.stderr

    snapshot = tmp_path / "home" / "hub" / "models--org--a" / "snapshots" / commit
    assert {str(p.relative_to(snapshot)) for p in snapshot.rglob("*") if p.is_file()} == {*SMALL, *MODULES, *shards}
    (snapshot / TWO[1]).unlink()
    broken = call(hub, tmp_path, "inspect", "org/a", HF_HUB_OFFLINE="1")
    assert broken.returncode == 2
    assert_message(broken.stderr, TWO[1])
    assert call(hub, tmp_path, "inspect", "org/a").returncode == 0


def test_an_adapter(hub: StubHub, tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "pair")
    adapter = files_of(pair.adapter_folder)
    small = different("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", TEMPLATE)
    others = {**different("adapter_model.bin", "trainer_state.json"), **ONE, **COPIES}
    publish(hub, "org/a", {**adapter, **small, **others})
    done = call(hub, tmp_path, "inspect", f"{pair.folder}+org/a")
    assert done.returncode == 0, done.stderr
    assert sorted(fetched(hub, "org/a")) == sorted([*adapter, *small])
    assert said(done).startswith("org/a: downloading ")
    hub.requests = []
    again = call(hub, tmp_path, "inspect", f"{pair.folder}+org/a", HF_HUB_OFFLINE="1")
    assert (again.returncode, said(again), hub.requests) == (0, "", [])

    publish(hub, "org/more", {**adapter, "non_lora_trainables.bin": b"x", "optimizer.pt": b"x"})
    for argv in (["inspect"], ["inspect", pair.folder], ["compare", pair.folder]):
        done = call(hub, tmp_path, argv[0], f"{pair.folder}+org/more", *argv[1:])
        assert "org/more: non_lora_trainables.bin beside the adapter is not merged" in done.stdout, argv
    assert "non_lora_trainables.bin" not in fetched(hub, "org/more")

    publish(hub, "org/pickled", {"adapter_config.json": adapter["adapter_config.json"], "adapter_model.bin": b"x"})
    refused = call(hub, tmp_path, "inspect", f"{pair.folder}+org/pickled")
    assert_message(said(refused), "adapter_model.bin: is a pickle")
    assert fetched(hub, "org/pickled") == ["adapter_config.json"]


def test_all_files_are_of_one_commit(hub: StubHub, tmp_path: Path) -> None:
    old, new = weights(*TWO), weights("model.safetensors", seed=2)
    second = publish(hub, "org/a", {**SMALL, **new})
    first = publish(hub, "org/a", {**SMALL, **old, INDEX: index_of(old)})
    hub.pushes["org/a"] = second  # after the answer that resolves main
    done = call(hub, tmp_path, "lerp", "org/a", "org/a@main", "-o", tmp_path / "out", "--lam", "0", "--quiet")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "mi_kernels.json").read_text())
    assert (record["instruct"]["revision"], record["thinking"]["revision"]) == (first, second)
    assert hub.repos["org/a"].names["main"] == second
    commits = {r.split("/")[4] for r in hub.requests if f"/resolve/{first}/" in r or "model-0" in r}
    assert commits == {first}


def test_a_gated_model(hub: StubHub, tmp_path: Path) -> None:
    publish(hub, "org/a", {**SMALL, **ONE})
    hub.gated = "org/a"
    done = call(hub, tmp_path, "inspect", "org/a")
    assert done.returncode == 2
    assert_message(said(done), "org/a: no such folder, and the download from the Hub failed: 403", "hf auth login")
    assert "downloading" not in done.stderr


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
    assert_message(absent.stderr, "org/a", "only cached models can be used")


@pytest.mark.parametrize(
    ("source", "words"), [("org/nobody", "the Hub has no model with this id"), ("org/a@v9", "from the Hub failed")]
)
def test_unknown_ids_and_revisions(hub: StubHub, tmp_path: Path, source: str, words: str) -> None:
    hub.repos["org/a"] = Repo()
    hub.repos["org/a"].add({"config.json": b"{}"})
    done = call(hub, tmp_path, "inspect", source)
    assert done.returncode == 2
    assert_message(done.stderr, f"{source}: no such folder", words)


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


@pytest.mark.parametrize("given", ["org/name", "org/name@refs/pr/3", "01-ai/Yi-1.5-9B", "o_rg/n.a_me"])
def test_names_that_are_ids(given: str) -> None:
    assert looks_like_id(given)


@pytest.mark.parametrize(
    "given",
    [
        *("./name", "../name", "org/..", "name", "a/b/c", "~/name", "/name", "org/", "org/name/", "m/x.safetensors"),
        *("runs.v1/name", "org/name.git", "org/recipe.yml", "org/a--b", "a--b/c", "org/n.", "org/n-", ".hidden/x"),
    ],
)  # fmt: skip
def test_paths_are_never_sent_to_the_hub(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object) -> None:
        raise AssertionError("a path was sent to the Hub")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mi_kernels.checkpoint.hub.download", download)
    assert not looks_like_id(given)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(given)
    assert caught.value.problem.startswith(f"{given}: no such ")


def test_a_missing_model_in_a_local_folder_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert looks_like_id("models/instruct")
    (tmp_path / "models" / "instruct").mkdir(parents=True)
    (tmp_path / "models" / "instruct" / "model.safetensors").touch()
    assert not looks_like_id("models/instrct")
    assert looks_like_id("models/instrct@main")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("models/instrct")
    assert caught.value.problem == "models/instrct: no such folder"
    assert caught.value.remedy == (
        "Did you mean models/instruct? models is a folder here, so this is a path. For the model on the Hub, write "
        "models/instrct@main."
    )


@pytest.mark.parametrize(
    ("given", "problem", "remedy"),
    [
        ("./instrct", "./instrct: no such folder", "Did you mean ./instruct?"),
        ("instrct", "instrct: no such folder", "Did you mean instruct?"),
        ("./zzz", "./zzz: no such folder", "Check the path"),
        ("./runs/a/b", "./runs/a/b: no such folder, because ./runs does not exist", "Check the path"),
        ("~/instruct", "~/instruct: no such folder", "$HOME"),
    ],
)
def test_a_path_that_does_not_exist(
    given: str, problem: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "instruct").mkdir()
    (tmp_path / "instruct" / "model.safetensors").touch()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(given)
    assert caught.value.problem == problem
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("given", "folder", "hint"),
    [
        ("./runs/mi-ffn", "runs/mi-fnn", "./runs/mi-fnn"),
        ("./rusn/mi-ffn", "runs/mi-ffn", "./runs/mi-ffn"),  # the mistake is in a folder above
        ("./a/long/path/to/qwen3", "a/long/path/to/llama", None),  # only the part that is missing is compared
        ("./qwen3-base", "qwen3-chat", None),
        ("./instruct", "instruct/instruct", None),
        ("./docs/x", "docs/y", None),
    ],
)
def test_only_a_model_that_is_spelled_alike_is_offered(
    given: str, folder: str, hint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir(parents=True)
    for weights in (False, True):
        if weights:
            (tmp_path / folder / "model.safetensors").touch()
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(given)
        assert ("Did you mean" in caught.value.remedy) == (weights and hint is not None)
    if hint is not None:
        assert caught.value.remedy.startswith(f"Did you mean {hint}? ")


@pytest.mark.parametrize("offline", ["0", "1"])
@pytest.mark.parametrize("reachable", [True, False])
def test_a_path_with_the_form_of_an_id(hub: StubHub, tmp_path: Path, reachable: bool, offline: str) -> None:
    """Whatever keeps the Hub from having it, the message says that there is no such folder, and offers a near one."""
    World(tmp_path / "runs")
    environment = {"HF_HUB_OFFLINE": offline} | ({} if reachable else {"HF_ENDPOINT": "http://127.0.0.1:9"})
    done = run(hub, tmp_path, [*PROGRAM, "inspect", "rusn/instruct"], cwd=tmp_path, **environment)
    assert done.returncode == 2
    why = "HF_HUB_OFFLINE is set" if offline == "1" else "the Hub has no model with this id" if reachable else "failed"
    assert_message(done.stderr, "rusn/instruct: no such folder, and the ", why, "Did you mean runs/instruct?")
