"""Measures a pair without vLLM: Mean, Think #R and Token #N at every lam, and without some modules."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import Qwen3ForCausalLM

from mi_kernels import sweep_checkpoint

from ..benchmarks import chains
from ..schema import Problem
from . import tokenizer
from .train import Say

LAMS = tuple(i / 10 for i in range(11))
# The modules that are merged. The embeddings are equal in both models, so only one module is left out.
ABLATIONS = {"ffn left out": "attn,norm", "attn left out": "ffn,norm"}
ABLATION_LAMS = (0.7, 0.8, 0.9)
SAMPLES = 8
_SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}


@dataclass(frozen=True)
class Measured:
    """The scores of one merge on the chains: Mean@8 and Think #R as fractions, and Token #N."""

    what: str
    lam: float
    mean: float
    think: float
    tokens: float


def check(pair: str, say: Say, problems: int = chains.PROBLEMS) -> list[Measured]:
    """Merges and samples the pair in the folder `pair`. Takes a minute or two on one core."""
    measured = []
    say(f"{'':15}lam   Mean@{SAMPLES}  Think #R  Token #N")
    with tempfile.TemporaryDirectory() as scratch:
        for what, lam, folder in _merges(pair, scratch):
            measured.append(Measured(what, lam, *sample(folder, chains.load(None)[:problems])))
            m = measured[-1]
            say(f"{m.what:15}{m.lam:.1f}  {m.mean:7.3f}  {m.think:8.3f}  {m.tokens:8.1f}")
    return measured


def _merges(pair: str, scratch: str) -> Iterator[tuple[str, float, str]]:
    """Merges the two models of `pair`; yields (what, lam, folder)."""
    plans: list[tuple[str, str | None, Sequence[float]]] = [("", None, LAMS)]
    plans += [(what, modules, ABLATION_LAMS) for what, modules in ABLATIONS.items()]
    for what, modules, lams in plans:
        out = os.path.join(scratch, f"{modules}-{{lam}}")
        instruct, thinking = (os.path.join(pair, name) for name in ("instruct", "thinking"))
        sweep_checkpoint(instruct, thinking, out, lams, modules=modules, progress=False)
        for lam in lams:
            yield what, lam, out.format(lam=f"{lam:g}")


def sample(folder: str, problems: Sequence[Problem]) -> tuple[float, float, float]:
    """(mean, think, tokens) of `SAMPLES` responses to each problem, in one batch: all prompts have one length."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    words = tokenizer.build()
    end = words.token_to_id(tokenizer.END)
    rows = [words.encode(tokenizer.prompt(p.prompt)).ids for p in problems for _ in range(SAMPLES)]
    ids = torch.tensor(rows)
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=chains.BENCHMARK.max_tokens, **_SAMPLING
        )
    correct = thinking = tokens = 0
    for i, row in enumerate(out[:, ids.shape[1] :].tolist()):
        length = row.index(end) + 1 if end in row else len(row)
        _, closed, answer = words.decode(row[:length]).rpartition("</think>")
        correct += chains.grade(problems[i // SAMPLES].reference, answer).correct
        thinking += bool(closed)
        tokens += length
    return correct / len(rows), thinking / len(rows), tokens / len(rows)
