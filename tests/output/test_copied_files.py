"""Which files of a model's folder a merge copies, what it says about the others, and links. The output loads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mi_kernels import CheckpointError, lerp_checkpoint, open_checkpoint, verify_checkpoint
from mi_kernels.checkpoint import hub
from mi_kernels.checkpoint.model_files import kind_of
from mi_kernels.merge.api import plan_sweep
from mi_kernels.output import copied_files
from mi_kernels.output.folder import OutputFolder

from ..support.adapters import make_pair
from ..support.checks import World, assert_refused, handled, run_cli, snapshot
from ..support.models import CONFIG, INDEX, assert_same_tensors, merge_reference, qwen3_model, save, tiny, write_raw

MADE = {"README.md", "mi_kernels.json", "mi_kernels.checksums.json"}


def put(folder: Path, files: Mapping[str, Any]) -> None:
    """Writes files by path within `folder`: bytes, text, or JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, (str, bytes)) else json.dumps(content)
        path.write_bytes(text.encode() if isinstance(text, str) else text)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def merge(world: World, **options: Any) -> list[str]:
    """Merges and verifies. Returns the notes on other things than values."""
    report = lerp_checkpoint(world.instruct, world.thinking, world.out, 0.5, progress=False, **options)
    checked = verify_checkpoint(world.out, [world.instruct, world.thinking], progress=False)
    assert checked.right, checked
    return [note.replace(str(world.thinking), "T").replace(str(world.instruct), "I") for note in handled(report.notes)]


def copied(world: World) -> set[str]:
    return {name for name in files_of(world.out) if not name.endswith(".safetensors")} - MADE


COPIED = {
    *("config.json", "generation_config.json", "params.json", "configuration.json", "my_settings.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "vocab.txt", "rwkv_vocab_v20230424.txt", "dict.txt", "tokenizer.model", "tokenizer.model.v3"),
    *("spiece.model", "sentencepiece.bpe.model", "source.spm", "qwen.tiktoken", "tekken.json", "bpe.codes"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("chat_template.jinja", "chat_template.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("LICENSE", "LICENCE.md", "NOTICE.txt", "USE_POLICY.md", "Model License Agreement.txt", "COPYING"),
}
LEFT = {
    "an adapter, which is not applied": ["adapter_config.json", "adapter_model.safetensors"],
    "left over from training": [
        *("all_results.json", "latest", "optimizer.pt", "rng_state_0.pth", "scheduler.pt", "trainer_state.json"),
        *("training_args.bin", "zero_to_fp32.py", "checkpoint-500/", "global_step12/"),
    ],
    "for quantised weights": ["hf_quant_config.json", "quant_config.json", "quantize_config.json"],
    "code that no config names": ["convert.py", "modeling_old.py"],
    "scripts": ["requirements.txt", "run.sh"],
    "weights in other formats, or pickles": [
        *("flax_model.msgpack", "pytorch_model.bin", "pytorch_model.bin.index.json", "onnx/"),
    ],
    "not known to belong to a model": ["data.dat", "notes.txt"],
    "other subfolders": ["speech/"],
}
SILENT = ["README.md", "image.png", ".gitattributes", ".cache/x.json", "mi_kernels.json", "figures/a.json"]


def test_files_by_what_they_are(tmp_path: Path) -> None:
    world = World(tmp_path, shards=1)
    for folder in (world.instruct, world.thinking):
        put(folder, {name: {"from": name} for name in COPIED - {"config.json"}})
    put(world.thinking, {f"{n}a.json" if n.endswith("/") else n: {} for names in LEFT.values() for n in names})
    put(world.thinking, dict.fromkeys(SILENT, "{}"))
    (note,) = merge(world)
    assert copied(world) == COPIED
    for name in COPIED:
        assert (world.out / name).read_bytes() == (world.thinking / name).read_bytes()
    text = note.removeprefix("T: not copied to the output: ")
    groups = {label: names for names, _, label in (part.rpartition(" (") for part in text.split("; "))}
    assert set(groups) == {f"{label})" for label in LEFT}
    for label, names in LEFT.items():
        first = sorted(names, key=lambda name: (name.endswith("/"), name))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        assert groups[f"{label})"] == ", ".join(first[:3]) + more


SETTINGS_OF_TRAINING = [
    *(
        "args.json",
        "sft_args.json",
        "training_args.json",
        "ds_config.json",
        "ds_config_zero3.json",
        "my_deepspeed.json",
    ),
    *("accelerate_config.json", "wandb-metadata.json", "hparams.json", "train_config.json"),
]
SECRETS = ["credentials.json", "client_secret.json", "token.json", "HF_Token.json", "secrets.yaml", "id_rsa", "x.pem"]


def test_settings_of_training_and_secrets_are_never_copied(tmp_path: Path) -> None:
    world = World(tmp_path)
    put(world.thinking, {"config.json": {**CONFIG, "files": SECRETS}, "modules.json": [{"path": "1_Pooling"}]})
    settings = [
        "1_Pooling/config.json",
        "tokenizer_token.json",
        "my_settings.json",
        "args_map.json",
    ]
    names = [*SETTINGS_OF_TRAINING, *SECRETS, *settings]
    put(world.thinking, {**dict.fromkeys(names, "{}"), "1_Pooling/secrets.json": {}, "1_Pooling/args.json": {}})
    (note,) = merge(world)
    assert copied(world) == {*settings, "config.json", "modules.json", INDEX}
    assert f"and {len(SETTINGS_OF_TRAINING) - 2} more (left over from training)" in note  # 3, and one of the module
    assert f"and {len(SECRETS) - 2} more (may hold secrets)" in note


@pytest.mark.parametrize("copy_from", ["thinking", "instruct"])
def test_only_the_model_of_the_small_files_has_a_note(tmp_path: Path, copy_from: str) -> None:
    world = World(tmp_path)
    put(world.instruct, {"trainer_state.json": {}})
    notes = merge(world, copy_from=copy_from)
    assert notes == (
        ["I: not copied to the output: trainer_state.json (left over from training)"] * (copy_from != "thinking")
    )


def test_hostile_names_in_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    for number in range(2000):
        (world.thinking / f"{number}\x1b[2J\n{'x' * 200}").touch()
    (world.thinking / os.fsdecode(b"\xff.txt")).touch()
    assert run_cli(world.argv()) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "not copied" in line]
    assert len(line) < 2000
    assert "\x1b" not in line


AUTO_MAPS: dict[str, dict[str, Any]] = {
    "config": {"config.json": {**CONFIG, "auto_map": {"AutoModel": "own.Own"}}},
    "a part of the config": {"config.json": {**CONFIG, "llm_config": {"auto_map": {"AutoConfig": "own.Own"}}}},
    "a pipeline": {"config.json": {**CONFIG, "custom_pipelines": {"x": {"impl": "own.Own", "pt": ["A"]}}}},
    "tokenizer": {"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["own.Own", None]}}},
    "processor": {"preprocessor_config.json": {"auto_map": {"AutoImageProcessor": "own.Own"}}},
    "another repository": {"config.json": {**CONFIG, "auto_map": {"AutoModel": "org/other--own.Own"}}},
    "a module": {"modules.json": [{"idx": 0, "name": "0", "path": "", "type": "own.Own"}]},
}


@pytest.mark.parametrize("case", AUTO_MAPS)
def test_code_that_a_config_names(tmp_path: Path, case: str) -> None:
    world = World(tmp_path)
    code = {
        "own.py": "import torch\nfrom .first import (\n    A,\n)\nif 1:\n    from .second import B\n'my_words.txt'\n",
        "first.py": "from . import third, fourth as f  # fifth\nimport second\n",
        "second.py": "from .own import Own\nfrom transformers import x\nfrom .missing import y\n",
        "third.py": "from . import (\n    sixth,\n)\n",
        **dict.fromkeys(("fourth.py", "fifth.py", "sixth.py", "convert.py", "torch.py", "transformers.py", "x.py"), ""),
        **dict.fromkeys(("my_words.txt", "words.txt"), "x"),
    }
    put(world.thinking, {**code, **AUTO_MAPS[case]})
    (note,) = merge(world)
    reached = {"own.py", "first.py", "second.py", "third.py", "fourth.py", "sixth.py", "my_words.txt"}
    assert {name for name in copied(world) if name.endswith((".py", ".txt"))} == reached
    assert "convert.py, fifth.py, torch.py and 2 more (code that no config names)" in note
    assert "words.txt (not known to belong to a model)" in note


def test_many_texts_and_a_large_config(tmp_path: Path) -> None:
    """The config is searched once, not once for each text."""
    world = World(tmp_path)
    config = json.dumps({**CONFIG, "x": ["long"] * (1 << 20), "y": ["3.txt", "it's.txt"]})
    put(world.thinking, {"config.json": config, "it's.txt": "", **{f"{i}.txt": "" for i in range(3000)}})
    start = time.process_time()
    named = copied_files.survey(open_checkpoint(world.thinking)).names
    assert time.process_time() - start < 15  # one pass takes 2 s, one for each text 30 s
    assert [name for name in named if name.endswith(".txt")] == ["3.txt", "it's.txt"]


CUSTOM = {
    "configuration_own.py": """
from transformers import Qwen3Config

class OwnConfig(Qwen3Config):
    model_type = "own"
""",
    "modeling_own.py": """
from transformers import Qwen3ForCausalLM
from .configuration_own import OwnConfig
from .helper import double

class OwnModel(Qwen3ForCausalLM):
    config_class = OwnConfig
    two = double(1)
""",
    "helper.py": """
def double(x):
    return 2 * x
""",
}


def test_a_model_with_code_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    models = [qwen3_model(seed, tied=False) for seed in (1, 2)]
    for name, model in zip("ab", models):
        model.save_pretrained(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        auto_map = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
        put(tmp_path / name, {**CUSTOM, "convert.py": "import torch", "setup.py": "boom"})
        put(tmp_path / name, {"config.json": {**config, "model_type": "own", "auto_map": auto_map}})
    report = lerp_checkpoint(tmp_path / "a", tmp_path / "b", tmp_path / "out", 0.5, progress=False)
    assert {path.name for path in (tmp_path / "out").glob("*.py")} == {*CUSTOM}
    assert [note for note in report.notes if "convert.py, setup.py (code that no config names)" in note]
    loaded, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, trust_remote_code=True
    )
    assert not any(info.values()), info
    assert (type(loaded).__name__, loaded.two) == ("OwnModel", 2)
    assert_same_tensors(loaded.state_dict(), merge_reference(*(m.state_dict() for m in models), 0.5))


@pytest.mark.parametrize("side", ["instruct", "thinking"])
def test_an_adapter_beside_merged_weights(tmp_path: Path, side: str) -> None:
    """As peft's merge_and_unload leaves it, if the merged model is saved into the folder of the adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    models = {name: qwen3_model(i, tied=False) for i, name in enumerate(("instruct", "thinking"))}
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(models[side], lora)
    adapted.save_pretrained(tmp_path / side)
    models[side] = adapted.merge_and_unload()
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    assert (tmp_path / side / "adapter_config.json").exists()
    report = lerp_checkpoint(tmp_path / "instruct", tmp_path / "thinking", tmp_path / "out", 0.5, progress=False)
    assert [note for note in report.notes if str(tmp_path / side) in note and "adapter_config.json" in note]
    assert not list((tmp_path / "out").glob("adapter*"))
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    assert_same_tensors(loaded.state_dict(), merge_reference(*(m.state_dict() for m in models.values()), 0.5))


@pytest.mark.parametrize("first", [False, True])
def test_an_adapter_in_the_folder_of_its_base_is_applied(tmp_path: Path, first: bool) -> None:
    pair = make_pair(tmp_path)
    for path in pair.adapter_folder.iterdir():
        path.rename(pair.folder / path.name)
    given = [f"{pair.folder}+{pair.folder}", str(save(tmp_path / "other", pair.base))]
    notes = lerp_checkpoint(*given[:: 1 if first else -1], tmp_path / "out", 0.5, progress=False).notes
    assert not [note for note in notes if "not applied" in note]
    assert not (tmp_path / "out" / "adapter_config.json").exists()


MODULES = [
    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{path[2:] or 'Transformer'}"}
    for i, path in enumerate(["", "1_Pooling", "2_Dense", "3_Normalize"])
]
SENTENCE = {
    "modules.json": MODULES,
    "config_sentence_transformers.json": {"prompts": {"query": "Q:"}, "similarity_fn_name": "cosine"},
    "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
    "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_lasttoken": True},
    "2_Dense/config.json": {
        "in_features": 32,
        "out_features": 8,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    },
    "3_Normalize/README.md": "a file that the folder of a module without settings may have",
    "additional_chat_templates/tool_use.jinja": "{{ tools }}",
}
IN_SUBFOLDERS = {name for name in SENTENCE if "/" in name and not name.endswith(".md")} | {"2_Dense/model.safetensors"}


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({**{chr(40 + i): i for i in range(61)}, "<unk>": 61, "</s>": 62}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="</s>", eos_token="</s>")
    fast.chat_template = "{{ messages }}"
    fast.save_pretrained(folder)


def sentence_model(folder: Path, seed: int) -> Any:
    """Writes a model of sentence-transformers. Returns its transformer."""
    model = qwen3_model(seed, tied=True).model
    model.save_pretrained(folder)
    put(folder, SENTENCE)
    save_file({"linear.weight": torch.randn(8, 32, generator=torch.Generator().manual_seed(seed))}, folder / DENSE)
    tokenizer(folder)
    return model


DENSE = "2_Dense/model.safetensors"


@pytest.mark.parametrize("copy_from", ["thinking", "instruct"])
def test_modules_of_sentence_transformers(tmp_path: Path, copy_from: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    world = World(tmp_path / "unused", shards=1)
    a, b = (sentence_model(tmp_path / name, seed) for seed, name in ((1, "instruct"), (2, "thinking")))
    world.root = tmp_path
    notes = merge(world, copy_from=copy_from)
    assert notes == [f"{DENSE}: copied from {copy_from[0].upper()}, not interpolated"]
    origin = tmp_path / copy_from
    assert {name for name in files_of(world.out) if "/" in name} == IN_SUBFOLDERS
    for name in IN_SUBFOLDERS:
        assert (world.out / name).read_bytes() == (origin / name).read_bytes()
    loaded, info = AutoModel.from_pretrained(world.out, output_loading_info=True)
    assert not any(info.values()), info
    assert_same_tensors(loaded.state_dict(), merge_reference(a.state_dict(), b.state_dict(), 0.5))
    assert AutoTokenizer.from_pretrained(world.out).chat_template == {
        "default": "{{ messages }}",
        "tool_use": "{{ tools }}",
    }


def test_sentence_transformers_loads_the_merge(tmp_path: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    sentence_model(tmp_path / "a", 1)
    sentence_model(tmp_path / "b", 2)
    lerp_checkpoint(tmp_path / "a", tmp_path / "b", tmp_path / "out", 0.5, progress=False)
    model = package.SentenceTransformer(str(tmp_path / "out"))
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Dense", "Normalize"]
    weight = load_file(tmp_path / "b" / DENSE)["linear.weight"]
    assert torch.equal(model[2].linear.weight.float(), weight.to(model[2].linear.weight.dtype).float())
    assert model.encode(["abc", "de"]).shape == (2, 8)


def test_modules_in_modules(tmp_path: Path) -> None:
    """A router has the folders of its modules in router_config.json, or in its own folder."""
    world = World(tmp_path)
    inside = {
        "query_0_Dense/config.json": {},
        "query_0_Dense/deep/er/vocab.txt": "x",
        "parts/1_Asym/config.json": {"types": {}},
        "parts/1_Asym/a-0_Dense/config.json": {},
        "parts/1_Asym/a-0_Dense/model.safetensors.index.json": {"weight_map": {}},
        "custom_generate/generate.py": "from .more import x",
        "custom_generate/more.py": "",
        "custom_generate/requirements.txt": "x",
    }
    left = {
        "parts/1_Asym/.git/config": "password",
        "parts/1_Asym/a-0_Dense/optimizer.pt": "x",
        "parts/1_Asym/train.py": "x",
        "parts/2_Other/config.json": {},
        "custom_generate/data.json": {},
        "additional_chat_templates/notes.txt": "x",
    }
    put(world.thinking, {**inside, **left})
    put(world.thinking, {"modules.json": [{"path": "./"}, {"path": "parts//1_Asym/"}, {"path": 7}, {}, "x"]})
    put(world.thinking, {"router_config.json": {"types": {"query_0_Dense": "Dense"}, "structure": {}}})
    save_file({"w": torch.ones(2)}, world.thinking / "parts/1_Asym/a-0_Dense/model.safetensors")
    notes = merge(world)
    got = {name for name in files_of(world.out) if "/" in name}
    assert got == {*inside, "parts/1_Asym/a-0_Dense/model.safetensors"}
    assert "parts/1_Asym/a-0_Dense/model.safetensors: copied from T, not interpolated" in notes
    (note,) = [note for note in notes if "not copied" in note]
    assert "parts/1_Asym/a-0_Dense/optimizer.pt (left over from training)" in note
    assert "password" not in str(files_of(world.out).values())


def test_folders_in_a_module_that_are_copies_of_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    left = [
        "openvino/openvino_model.bin",
        "onnx/model.onnx",
        "onnx/config.json",
        "deep/checkpoint-5/trainer_state.json",
    ]
    put(world.thinking, {f"0_Transformer/{name}": {} for name in ("config.json", "deep/vocab.json", *left)})
    put(world.thinking, {"modules.json": [{"path": "0_Transformer"}]})
    (note,) = merge(world)
    assert {name for name in files_of(world.out) if "/" in name} == {
        "0_Transformer/config.json",
        "0_Transformer/deep/vocab.json",
    }
    assert "0_Transformer/deep/checkpoint-5/ (left over from training)" in note
    assert "0_Transformer/onnx/, 0_Transformer/openvino/ (weights in other formats, or pickles)" in note


def test_code_in_a_module_that_its_config_names(tmp_path: Path) -> None:
    world = World(tmp_path)
    code = {"own.py": "from .more import x", "more.py": "", "train.py": "", "deep/own.py": ""}
    config = {"auto_map": {"AutoModel": "own.Own"}}
    put(world.thinking, {f"0_Transformer/{name}": text for name, text in code.items()})
    put(
        world.thinking, {"0_Transformer/config.json": config, "own.py": "", "modules.json": [{"path": "0_Transformer"}]}
    )
    (note,) = merge(world)
    got = {name for name in files_of(world.out) if name.endswith(".py")}
    assert got == {"0_Transformer/own.py", "0_Transformer/more.py"}
    assert "own.py, 0_Transformer/deep/own.py, 0_Transformer/train.py (code that no config names)" in note


def test_a_pickle_of_a_module_that_stayed_on_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    put(world.thinking, SENTENCE)
    names = ["pytorch_model.bin", "2_Dense/pytorch_model.bin", "2_Dense/openvino/x.bin"]
    monkeypatch.setitem(hub._left_out, str(world.thinking), names)
    assert_refused(capsys, tmp_path, world.argv(), "2_Dense/pytorch_model.bin: is a pickle", "save_pretrained")
    monkeypatch.setitem(hub._left_out, str(world.thinking), names[::2])
    merge(world)


@pytest.mark.parametrize("content", ["{", "[]", "{}", "[[1]]", '"x"', "[" * 100_000])
def test_a_modules_json_of_another_form_is_copied(tmp_path: Path, content: str) -> None:
    world = World(tmp_path)
    put(world.thinking, {"modules.json": content, "convert.py": ""})
    merge(world)
    assert (world.out / "modules.json").read_text() == content


@pytest.mark.parametrize(
    "path",
    ["../secret", "a/../../secret", "/etc", "..", ".git", "a/.git", "a\\b", "x\0", "model.safetensors", "a.json/"],
)
@pytest.mark.parametrize("dry", [False, True])
def test_a_module_outside_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, dry: bool) -> None:
    world = World(tmp_path)
    put(tmp_path, {"secret/config.json": {}})
    put(world.thinking, {"modules.json": [{"path": "1_Pooling"}, {"path": path}], ".git/config": "x", "a/.git/c": "x"})
    words = ("modules.json: names the folder", "not a subfolder")
    assert_refused(capsys, tmp_path, world.argv(*(["--dry-run"] if dry else [])), *words)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "deep/weights.ckpt"])
def test_pickles_of_a_module(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    world = World(tmp_path)
    put(world.thinking, {**SENTENCE, f"2_Dense/{name}": b"pickle", "2_Dense/optimizer.pt": b"x"})
    words = (f"2_Dense/{name}: is a pickle", "never opened", "save_pretrained")
    assert_refused(capsys, tmp_path, world.argv(), *words)
    assert_refused(capsys, tmp_path, world.argv("--dry-run"), *words)
    save_file({"linear.weight": torch.ones(2)}, (world.thinking / "2_Dense" / name).with_name("model.safetensors"))
    notes = merge(world)
    assert f"2_Dense/{name} (weights in other formats, or pickles)" in notes[0]
    assert f"2_Dense/{name}" not in files_of(world.out)


@pytest.mark.parametrize("data", [300 << 20, 5])
def test_weights_of_a_module_that_are_too_large_or_not_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: int
) -> None:
    world = World(tmp_path)
    put(world.thinking, SENTENCE)
    path = write_raw(
        world.thinking / DENSE, {"w": {"dtype": "U8", "shape": [300 << 20], "data_offsets": [0, 300 << 20]}}
    )
    os.truncate(path, path.stat().st_size + data)
    words = ("256 MiB", "modules.json") if data > 5 else ("not a valid safetensors file",)
    before = path.stat()
    capsys.readouterr()
    assert run_cli(world.argv("--dry-run")) == 2
    err = capsys.readouterr().err
    for word in (DENSE, *words):
        assert word in err
    after = path.stat()  # its time of access changes
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


def linked(world: World) -> Path:
    """Moves THINKING to another place, and makes a folder of links in its place. Returns the new place."""
    model = world.root / "elsewhere" / "model"
    model.parent.mkdir()
    world.thinking.rename(model)
    world.thinking.mkdir()
    for path in model.iterdir():
        (world.thinking / path.name).symlink_to(path)
    return model


def test_a_folder_of_links_to_another_model(tmp_path: Path) -> None:
    world = World(tmp_path)
    code = {"config.json": {**CONFIG, "auto_map": {"AutoModel": "own.Own"}}, "own.py": "x = 1"}
    small = {"tokenizer.json": {}, "vocab.txt": "x", "LICENSE": "x", "label2id.json": {}, "chat_template.jinja": "x"}
    put(world.thinking, {**SENTENCE, **code, **small})
    save_file({"linear.weight": torch.ones(2)}, world.thinking / DENSE)
    model = linked(world)
    notes = merge(world)
    assert notes[0] == f"{DENSE}: copied from T, not interpolated"
    assert {*small, "own.py", "modules.json"} <= copied(world)
    for name, content in files_of(world.out).items():
        if name not in MADE and (model / name).is_file() and name.rpartition("/")[0]:
            assert content == (model / name).read_bytes()
    assert not [path for path in world.out.rglob("*") if path.is_symlink()]
    assert set(files_of(world.out)) >= IN_SUBFOLDERS


def lone_file(world: World) -> Path:
    put(world.root, {"elsewhere/tokenizer.json": {}})
    return world.root / "elsewhere" / "tokenizer.json"


def without_weights(world: World) -> Path:
    put(world.root, {"elsewhere/tokenizer.json": {}, "elsewhere/config.json": CONFIG})
    return world.root / "elsewhere" / "tokenizer.json"


def config_of_a_program(world: World) -> Path:
    put(world.root, {"elsewhere/tokenizer.json": {}, "elsewhere/config.json": {"password": "x"}})
    save_file({"w": torch.ones(2)}, world.root / "elsewhere" / "w.safetensors")
    return world.root / "elsewhere" / "tokenizer.json"


def weights_that_are_a_folder(world: World) -> Path:
    (without_weights(world).parent / "w.safetensors").mkdir()
    return world.root / "elsewhere" / "tokenizer.json"


def config_of_a_model(world: World) -> Path:
    return world.instruct / "config.json"


def secret_of_a_model(world: World) -> Path:
    put(world.instruct, {"secret.txt": "x"})
    return world.instruct / "secret.txt"


def other_json_of_a_model(world: World) -> Path:
    put(world.instruct, {"credentials.json": "x"})
    return world.instruct / "credentials.json"


def below_a_model(world: World) -> Path:
    put(world.instruct, {"private/tokenizer.json": "x"})
    return world.instruct / "private" / "tokenizer.json"


def hidden_file_of_the_model(world: World) -> Path:
    put(world.thinking, {".git/config": "password"})
    return world.thinking / ".git" / "config"


@pytest.mark.parametrize(
    "target",
    [
        *(lone_file, without_weights, config_of_a_program, weights_that_are_a_folder, config_of_a_model),
        *(secret_of_a_model, other_json_of_a_model, below_a_model, hidden_file_of_the_model),
    ],
)
def test_other_links_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: Callable[[World], Path]
) -> None:
    world = World(tmp_path)
    path = target(world)
    (world.thinking / "tokenizer.json").symlink_to(path)
    place = "a hidden file" if ".git" in str(path) else "outside the folder of the model"
    assert_refused(capsys, tmp_path, world.argv(), f"tokenizer.json: is a link to {path}", place)


def folder_elsewhere(world: World) -> Path:
    put(world.root, {"elsewhere/1_Pooling/config.json": {}})
    return world.root / "elsewhere" / "1_Pooling"


def another_folder_of_a_model(world: World) -> Path:
    put(world.instruct, {"private/config.json": {}})
    return world.instruct / "private"


def hidden_folder(world: World) -> Path:
    put(world.thinking, {".git/config": "x"})
    return world.thinking / ".git"


def the_model_itself(world: World) -> Path:
    return world.thinking


@pytest.mark.parametrize("target", [folder_elsewhere, another_folder_of_a_model, hidden_folder, the_model_itself])
def test_links_to_other_folders_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: Callable[[World], Path]
) -> None:
    world = World(tmp_path)
    put(world.thinking, {"modules.json": MODULES})
    (world.thinking / "1_Pooling").symlink_to(target(world))
    assert_refused(capsys, tmp_path, world.argv(), "1_Pooling: is a link to")


def test_links_and_depth_within_a_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    put(world.thinking, {"modules.json": MODULES, "1_Pooling/config.json": {}})
    (world.thinking / "1_Pooling" / "again").symlink_to(".")
    assert_refused(capsys, tmp_path, world.argv(), "1_Pooling/again: is a link to a folder")
    (world.thinking / "1_Pooling" / "again").unlink()
    put(world.thinking, {f"1_Pooling/{'d/' * 40}c.json": {}})
    assert_refused(capsys, tmp_path, world.argv(), "nested more than 16 folders deep")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "./x", "a//x", "..", ""])
def test_an_output_folder_writes_only_inside(tmp_path: Path, name: str) -> None:
    with OutputFolder(tmp_path / "out") as folder:
        folder.prepare()
        before = snapshot(tmp_path)
        with pytest.raises(ValueError, match="not a path within"):
            folder.write_file(name, b"x")
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *(("deep/config.json", "config"), ("Tokenizer.json", "tokenizer"), ("license.py", "code that no config names")),
        *(
            ("LICENSE.safetensors", "weights"),
            ("a.json", "settings"),
            ("optimizer.safetensors", "left over from training"),
        ),
        ("", "not known to belong to a model"),
    ],
)
def test_kinds(name: str, label: str) -> None:
    assert kind_of(name).label == label


def test_a_file_that_is_left_out_is_never_opened(tmp_path: Path) -> None:
    """A FIFO would block, and a link to a device would never end."""
    world = World(tmp_path)
    os.mkfifo(world.thinking / "notes.txt")
    os.mkfifo(world.thinking / "convert.py")
    (world.thinking / "optimizer.pt").symlink_to("/dev/zero")
    (world.thinking / "training_args.bin").symlink_to("nothing")
    (note,) = merge(world)
    assert "convert.py" in note
    os.mkfifo(world.thinking / "my_settings.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        lerp_checkpoint(world.instruct, world.thinking, tmp_path / "second", 0.5, progress=False)


def test_one_model_twice_has_one_note(tmp_path: Path) -> None:
    world = World(tmp_path, b=tiny(1))
    put(world.thinking, {"adapter_config.json": {}})
    report = lerp_checkpoint(world.thinking, world.thinking, world.out, 0.5, progress=False)
    assert sum("adapter_config.json" in note for note in report.notes) == 1


def test_the_outputs_of_a_sweep_share_copied_files(tmp_path: Path) -> None:
    """Weights can be among them, and a sweep must not hold them once for each output."""
    world = World(tmp_path)
    put(world.thinking, {"tokenizer.json": {}})
    job = plan_sweep(world.instruct, world.thinking, str(tmp_path / "o-{lam}"), [0.25, 0.5])
    first, second = (job.small_files(output, None) for output in job.outputs)
    assert first.keys() == second.keys()
    shared = {name for name in first if first[name] is second[name]}
    assert {"tokenizer.json"} <= shared
    assert {*first} - shared <= {"config.json", "README.md", "mi_kernels.json"}
