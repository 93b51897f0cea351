"""vLLM itself: merges while loading, and changes of lam, give exactly the log-probabilities of merges on disk."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.engines.imports import hide_cuda_extras

if importlib.util.find_spec("vllm"):
    hide_cuda_extras()  # before vLLM is imported, as in `eval`
vllm = pytest.importorskip("vllm", reason="needs vLLM: pip install -e '.[eval-cpu]'")

import mi_kernels  # noqa: E402
from mi_kernels.errors import ArgumentError, MismatchError  # noqa: E402
from mi_kernels.integrations.vllm import LIVE, register, set_lam  # noqa: E402
from mi_kernels.integrations.vllm.client import EngineError  # noqa: E402

from ...support import ROOT  # noqa: E402
from ...support.models import qwen3_model  # noqa: E402

Outputs = list[list[tuple[int, dict[int, float]]]]
CONFIG = {
    "dtype": "bfloat16",
    "enforce_eager": True,
    "max_model_len": 384,
    "max_num_seqs": 8,
    "seed": 0,
    "kv_cache_memory_bytes": 1 << 26,
    "skip_tokenizer_init": True,
}
# vLLM caches prompts of 128 tokens and more. The longer prompts detect a cache that was not reset with the weights.
PROMPTS = [[(7 * i * j + 3) % 250 + 3 for j in range(n)] for i, n in enumerate((5, 40, 200, 300))]


@pytest.fixture(scope="module", autouse=True)
def in_process() -> Iterator[None]:
    """Sets up one process and one thread before the first engine, as the CPU build of vLLM requires."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        # vLLM inspects a model in a subprocess, which must not find these packages either.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "eval/engines/startup"), str(ROOT)]))
        register()
        yield


# Sizes that vLLM's CPU kernels support.
SIZES = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
}


def model(folder: Path, seed: int, tied: bool) -> str:
    made = qwen3_model(seed, tied=tied, **SIZES)
    for parameter in made.parameters():
        parameter.data.mul_(3)  # makes the models differ enough for different answers at every lam
    made.save_pretrained(folder)
    return str(folder)


@contextmanager
def engine(path: str, **options: Any) -> Iterator[Any]:
    """An engine that is shut down afterwards, because its state is global and two engines cannot share it."""
    llm = vllm.LLM(path, **CONFIG, **options)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def answers(llm: Any) -> Outputs:
    sampling = vllm.SamplingParams(temperature=0, max_tokens=12, logprobs=3, detokenize=False, ignore_eos=True)
    prompts = [{"prompt_token_ids": ids} for ids in PROMPTS]
    found = [request.outputs[0] for request in llm.generate(prompts, sampling, use_tqdm=False)]
    return [
        [(token, {k: v.logprob for k, v in probable.items()}) for token, probable in zip(out.token_ids, out.logprobs)]
        for out in found
    ]


class Pair:
    """Two models on disk, and the answers of their merges when they are loaded from folders."""

    def __init__(self, root: Path, tied: bool) -> None:
        self.root = root
        self.instruct, self.thinking = model(root / "a", 1, tied), model(root / "b", 2, tied)

    def expected(self, lam: float, **masks: Any) -> Outputs:
        out = self.root / f"merge-{len(list(self.root.iterdir()))}"  # vLLM would treat brackets in a path as a pattern
        mi_kernels.lerp_checkpoint(self.instruct, self.thinking, out, lam, progress=False, **masks)
        with engine(str(out)) as llm:
            return answers(llm)

    def engine(self, **options: Any) -> Any:
        options = options if "recipe" in options else {"other": self.thinking, **options}
        return engine(
            self.instruct, load_format="mi_kernels", model_loader_extra_config=options, worker_extension_cls=LIVE
        )


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), request.param)


def test_changing_lam_gives_the_answers_of_the_merge_on_disk(pair: Pair) -> None:
    lams = (0.8, 0.3, 0.0, 1.0)
    expected = {lam: pair.expected(lam) for lam in lams}
    assert len({str(e) for e in expected.values()}) == len(lams)
    masked = pair.expected(0.8, layers="1:2", modules="ffn")
    with pair.engine(lam=0.8) as llm:
        assert answers(llm) == expected[0.8]
        for lam in (0.3, 1.0, 0.0, 0.8, 0.3):
            assert set_lam(llm, lam)["lam"] == lam
            assert answers(llm) == expected[lam]

        said = set_lam(llm, 0.8, layers="1:2", modules="ffn")
        assert (said["layers"], said["modules"]) == ("1:2", "ffn")
        assert answers(llm) == masked

        for wanted, words in (
            ({"lam": 2}, "lam is 2"),
            ({"lam": 0.5, "layers": "7:9"}, "beyond the 2 layers"),
            ({"lam": 0.5, "modules": "router"}, "router"),
        ):
            with pytest.raises(ArgumentError, match=words):
                set_lam(llm, **wanted)
            assert answers(llm) == masked


def test_copies_of_both_models_as_on_a_gpu(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without vLLM's packing, a CPU keeps parameters like a GPU, and a change is one interpolation in place."""
    from vllm import _custom_ops
    from vllm.model_executor.layers import utils

    monkeypatch.setattr(_custom_ops, "_supports_onednn", False)
    monkeypatch.setattr(utils, "check_cpu_sgl_kernel", lambda *_: False)
    expected = {lam: pair.expected(lam) for lam in (0.3, 0.8)}
    with pair.engine(lam=0.8) as llm:
        live = llm.collective_rpc(lambda worker: worker.get_model().mi_kernels_live)[0]
        live.take_copies("device")
        assert answers(llm) == expected[0.8]
        reloads: list[str] = []
        monkeypatch.setattr(live, "reload", lambda weights: reloads.append("reload"))
        for lam in (0.3, 0.8, 0.3):
            set_lam(llm, lam)
            assert answers(llm) == expected[lam]
        assert not reloads
        with pytest.raises(ArgumentError, match="pattern"):
            set_lam(llm, 0.5, rules=[{"lam": 0.1, "pattern": "q_proj"}])
        assert answers(llm) == expected[0.3]


def test_a_pair_that_is_not_stored_alike(pair: Pair, tmp_path: Path) -> None:
    """THINKING under a wrapper and without the leading "model.", with a layer that vLLM does not load."""
    expected = pair.expected(0.4)
    tensors = load_file(f"{pair.thinking}/model.safetensors")
    renamed = {f"_orig_mod.{name.removeprefix('model.')}": tensor for name, tensor in tensors.items()}
    renamed["mtp.fc.weight"] = torch.zeros(64, 128, dtype=torch.bfloat16)
    other = tmp_path / "other"
    shutil.copytree(pair.thinking, other)
    save_file(renamed, other / "model.safetensors", metadata={"format": "pt"})
    with pair.engine(other=str(other), lam=0.9) as llm:
        set_lam(llm, 0.4)
        assert answers(llm) == expected


def test_a_head_that_vllm_would_not_load_is_refused(tmp_path: Path) -> None:
    """vLLM uses the embedding as the head if config.json ties the two, whatever the merge has as its head."""
    tied, untied = Pair(tmp_path, True), model(tmp_path / "untied", 3, False)
    with pytest.raises(MismatchError, match=r"lm_head\.weight: is not"), tied.engine(other=untied, lam=0.5):
        pass
    out = tmp_path / "merged"
    mi_kernels.lerp_checkpoint(tied.instruct, untied, out, 0.5, progress=False)
    with engine(str(out)) as llm:
        assert answers(llm)


def test_a_recipe_file_serves_any_method(pair: Pair, tmp_path: Path) -> None:
    recipe = tmp_path / "ta.yml"
    recipe.write_text(f"method: task_arithmetic\nbase: {pair.instruct}\nmodels: [{pair.thinking}]\nscale: 0.7\n")
    mi_kernels.merge_checkpoint(recipe, tmp_path / "out", progress=False)
    with engine(str(tmp_path / "out")) as llm:
        expected = answers(llm)
    with pair.engine(recipe=str(recipe)) as llm:
        assert answers(llm) == expected
        with pytest.raises(ArgumentError, match="cannot change lam"):
            set_lam(llm, 0.5)


def test_a_change_that_fails_midway_stops_the_engine(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from mi_kernels.live.resident import Resident

    whole = Resident.lerp

    def cut(self: Resident, recipe: Any) -> Any:
        weights = whole(self, recipe)
        yield next(weights)
        raise OSError("the disk has gone")

    with pair.engine(lam=0.8) as llm:
        with monkeypatch.context() as patch:
            patch.setattr(Resident, "lerp", cut)
            with pytest.raises(EngineError, match="the disk has gone"):
                set_lam(llm, 0.3)
        with pytest.raises(EngineError, match="the disk has gone"):
            set_lam(llm, 0.8)
        with pytest.raises(Exception, match="the disk has gone"):
            answers(llm)


def test_the_self_check_of_an_engine(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """On vLLM's own layers it passes, also with copies as on a GPU, and it finds a tensor that does not follow lam."""
    from mi_kernels.integrations.vllm.live import Live
    from mi_kernels.integrations.vllm.packed import packed
    from mi_kernels.integrations.vllm.self_check import fingerprints

    taken = Live.check_itself
    afresh: list[Any] = []

    def recorded(self: Live, lam: float, expected: Any, again: Any) -> Any:
        afresh.extend([lam, expected, again])
        return taken(self, lam, expected, again)

    monkeypatch.setattr(Live, "check_itself", recorded)
    with pair.engine(lam=0.8, check=True) as llm:
        model = llm.collective_rpc(lambda worker: worker.get_model())[0]
        live = model.mi_kernels_live
        names = set(dict(model.named_parameters()))
        assert (live.self_check.way, live.self_check.different, live.self_check.ignored) == ("reload", (), ())
        assert live.self_check.compared >= len(names) > 10
        assert live.recipe.lam == 0.8

        layer = model.model.layers[1].self_attn
        layer.cached = layer.o_proj.weight.data.clone() if layer.o_proj.weight.numel() else torch.ones(1)
        assert "model.layers.1.self_attn.cached" in fingerprints(model, packed(model))
        followed = afresh[1]["model.layers.1.self_attn.o_proj.weight"]  # what `cached` would be if it followed lam
        expected = {**afresh[1], "model.layers.1.self_attn.cached": followed}
        found = live.check_itself(0.5, expected, lambda: expected)
        # The engine has added its KV cache since the check at start, which ran before that.
        different = [name for name in found.different if not name.endswith(".kv_cache")]
        assert different == ["model.layers.1.self_attn.cached"]


def test_the_self_check_refuses_a_live_engine_as_on_a_gpu(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader's path for a GPU, on parameters that are not packed; one tensor of the model stays as it was."""
    from vllm import _custom_ops
    from vllm.model_executor.layers import utils
    from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

    from mi_kernels.integrations.vllm import loader

    monkeypatch.setattr(_custom_ops, "_supports_onednn", False)
    monkeypatch.setattr(utils, "check_cpu_sgl_kernel", lambda *_: False)

    class OnGpu(loader.Live):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.take_copies("device")

    monkeypatch.setattr(loader, "Live", OnGpu)
    with pair.engine(lam=0.8, check=True) as llm:
        live = llm.collective_rpc(lambda worker: worker.get_model().mi_kernels_live)[0]
        assert (live.self_check.way, live.self_check.different) == ("copies", ())
        answers(llm)

    load = Qwen3ForCausalLM.load_weights

    def cached(self: Any, weights: Any) -> Any:
        loaded = load(self, weights)
        self.model.sinks = self.model.embed_tokens.weight.data.float().exp()
        return loaded

    monkeypatch.setattr(Qwen3ForCausalLM, "load_weights", cached)
    monkeypatch.setattr(loader, "is_cpu", lambda *_: False)
    with pytest.raises(MismatchError, match=r"\(model\.sinks\) differ between lam changed to 0\.5 by copies"):
        with pair.engine(lam=0.8, live=True):
            pass


def test_serve_check() -> None:
    """The command on folders: stdout has the result, and the exit status is that of other refusals."""
    options = [
        "--dtype",
        "bfloat16",
        "--enforce-eager",
        "--kv-cache-memory-bytes",
        "67108864",
        "--max-model-len",
        "384",
    ]
    command = [sys.executable, "-c", "import sys; from mi_kernels.cli import main; sys.exit(main())", "serve"]
    tiny = ROOT / "eval/tiny_pair"
    done = subprocess.run(
        [*command, str(tiny / "instruct"), str(tiny / "thinking"), "--lam", "0.5", "--check", "--", *options],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, last = done.stdout.splitlines()
    assert "lam changed to 0.75 by reload" in first  # not to the lam that was loaded
    assert last == "OK: the same bits as the merge loaded afresh"


IN_A_PROCESS_OF_ITS_OWN = """
import json, sys
from tests.integrations.vllm import test_engine
if __name__ == "__main__":  # the process of the engine imports this file too
    with test_engine.engine(*sys.argv[1:2], **json.loads(sys.argv[2])) as llm:
        found = [test_engine.answers(llm)]
        if "load_format" in json.loads(sys.argv[2]):
            for lam in (0.3, 0.8):
                test_engine.set_lam(llm, lam)
                found.append(test_engine.answers(llm))
    print(json.dumps(found))
"""


def test_an_engine_in_a_process_of_its_own(pair: Pair, tmp_path: Path) -> None:
    """vLLM must find the loader by its entry point, because the other process shares no state with this one."""
    mi_kernels.lerp_checkpoint(pair.instruct, pair.thinking, tmp_path / "merge", 0.8, progress=False)
    script = tmp_path / "run.py"
    script.write_text(IN_A_PROCESS_OF_ITS_OWN)
    env = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    found = []
    extra = {"other": pair.thinking, "lam": 0.8}
    live = {"load_format": "mi_kernels", "model_loader_extra_config": extra, "worker_extension_cls": LIVE}
    for path, options in ((str(tmp_path / "merge"), {}), (pair.instruct, live)):
        command = [sys.executable, str(script), path, json.dumps(options)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout.splitlines()[-1]))
    (merged,), (loaded, changed, back) = found
    assert loaded == merged == back
    assert changed != merged
