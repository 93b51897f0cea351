"""The tiny pair: its task, its tokenizer, its training, and the two models that are part of the repository."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from eval.engines.imports import hide_cuda_extras

hide_cuda_extras()
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from eval.tiny_pair import pair, task, tokenizer  # noqa: E402
from eval.tiny_pair import train as training  # noqa: E402

HERE = Path(pair.__file__).parent
CHAIN = task.Chain([9, 6, 7, 8], "-*+")


def quiet(line: str) -> None:
    pass


def test_a_chain_is_worked_from_left_to_right_modulo_10() -> None:
    assert CHAIN.text == "a9b-6c*7d+8"
    assert CHAIN.values == [9, 3, 1, 9]
    once = "a9b-6=3c*7=1d+8=9"
    assert {name: answer(CHAIN) for name, answer in training.ANSWERS.items()} == {
        "direct": "=9",
        "brief": "a9b3c1d9=9",
        "worked": f"<think>{once}</think>=9",
        "checked": f"<think>{once};{once}</think>=9",
        "checked twice": f"<think>{once};{once};{once}</think>=9",
    }


def test_no_chain_is_in_both_sets() -> None:
    rng = random.Random(1)
    short = {test: {task.draw(rng, 2, test=test).text for _ in range(3000)} for test in (True, False)}
    assert len(short[False]) > len(short[True]) > 0
    assert short[True].isdisjoint(short[False])
    assert [task.draw(random.Random(7)).text for _ in range(2)] == [task.draw(random.Random(7)).text] * 2


@pytest.mark.parametrize("name", ["instruct", "thinking"])
def test_the_tokenizer_reads_steps_as_three_tokens_and_keeps_think(name: str) -> None:
    read = transformers.AutoTokenizer.from_pretrained(HERE / name)
    answer = task.worked(CHAIN, 0)
    assert read.tokenize(answer) == [
        "<think>",
        *["a", "9", "b", "-6", "=3", "c", "*7", "=1", "d", "+8", "=9"],
        "</think>",
        "=9",
    ]
    ids = read(answer + tokenizer.END)["input_ids"]
    assert ids[-1] == read.eos_token_id
    assert read.decode(ids, skip_special_tokens=True) == answer
    any_text = 'é, "\\boxed{7}"\n 12 + 5'
    assert read.decode(read(any_text)["input_ids"]) == any_text


@pytest.mark.parametrize("name", ["instruct", "thinking"])
def test_training_and_chat_template_put_the_same_prompt(name: str) -> None:
    read = transformers.AutoTokenizer.from_pretrained(HERE / name)
    turn = [{"role": "user", "content": CHAIN.text}]
    assert read.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) == tokenizer.prompt(CHAIN.text)


def test_only_the_answer_is_trained() -> None:
    row = ([5, 6, 7, 8], 2)
    ids, labels = training._padded([row, ([5, 6, 7, 8, 9], 2)])
    assert ids.tolist() == [[5, 6, 7, 8, 0], [5, 6, 7, 8, 9]]
    assert labels.tolist() == [[-100, -100, 7, 8, -100], [-100, -100, 7, 8, 9]]


def test_a_token_weighs_the_same_in_short_and_in_long_batches() -> None:
    """The gradients of two batches over one count add up to those of both together."""
    torch.manual_seed(0)
    model = training.Qwen3ForCausalLM(training.config())
    short, long = [([5, 6, 7, 8], 2)] * 2, [([5, 6] + [9, 7, 8] * 5, 2)] * 2

    def gradient(batches: list[list[training.Row]]) -> torch.Tensor:
        model.zero_grad()
        for rows in batches:
            training._gradients(model, rows, 100.0)
        return model.model.norm.weight.grad.clone()

    # float32 sums in another order: a few units in the last place of gradients below 1.
    torch.testing.assert_close(gradient([short, long]), gradient([short + long]), rtol=1e-4, atol=1e-6)


def test_the_same_seed_makes_the_same_bytes_and_embeddings_stay_in_fine_tuning(tmp_path: Path) -> None:
    base = [replace(phase, steps=5) for phase in training.BASE]
    ends = replace(training.INSTRUCT, steps=5), replace(training.THINKING, steps=5)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        pair.make(str(tmp_path / name), seed, quiet, base, *ends)
    one, two, three = (json.loads((tmp_path / n / pair.RECORD).read_text()) for n in ("one", "two", "three"))
    assert one["sha256"] == two["sha256"]
    assert not set(one["sha256"].values()) & set(three["sha256"].values())
    assert [p["phase"] for p in one["phases"]] == ["base, growing", "base", "instruct", "thinking"]
    weights = [load_file(pair.weights(str(tmp_path / "one" / n))) for n in ("instruct", "thinking")]
    same = {k for k in weights[0] if (weights[0][k] == weights[1][k]).all()}
    assert "model.embed_tokens.weight" in same
    assert not any("_proj" in name for name in same)


def test_the_pair_in_the_repository_is_the_one_described() -> None:
    record = json.loads((HERE / pair.RECORD).read_text())
    for name in ("instruct", "thinking"):
        folder = HERE / name
        assert pair.digest(pair.weights(str(folder))) == record["sha256"][f"{name}/model.safetensors"]
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        assert model.dtype == torch.bfloat16
        assert model.num_parameters() == record["parameters"] == 826_368
        wanted = training.config().to_dict()
        shape = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim")
        assert {k: model.config.to_dict()[k] for k in shape} == {k: wanted[k] for k in shape}
    assert record["cpu_seconds"] < 600
