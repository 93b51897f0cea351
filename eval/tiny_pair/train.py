"""Trains the pair: a base on every style of answer, then Instruct and Thinking from it.

The seed determines all random numbers, and one thread adds in a fixed order, so on one machine the same seed gives the
same bytes. Another CPU or torch adds in another order, and gives another pair of the same kind.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from . import task, tokenizer

Say = Callable[[str], None]

BATCH = 32
_WARM_UP = 50
_IGNORED = -100

ANSWERS: Mapping[str, Callable[[task.Chain], str]] = {
    "direct": task.direct,
    "brief": task.brief,
    "worked": lambda chain: task.worked(chain, 0),
    "checked": lambda chain: task.worked(chain, 1),
    "checked twice": lambda chain: task.worked(chain, 2),
}
_MIXTURE = {"direct": 0.2, "brief": 0.25, "worked": 0.35, "checked": 0.15, "checked twice": 0.05}


@dataclass(frozen=True)
class Phase:
    """One phase of the training.

    Attributes:
        name: in progress and in the record. steps: of `BATCH` answers each.
        styles: the share of each of `ANSWERS`.
        grow: chains grow from 2 digits to `task.LENGTH`; otherwise all have that length.
        rate: the learning rate at the start and at the end, with a cosine in between.
        embeddings: whether the embeddings are trained.
    """

    name: str
    steps: int
    styles: Mapping[str, float]
    rate: tuple[float, float]
    grow: bool = False
    embeddings: bool = False


@dataclass(frozen=True)
class Reached:
    """The result of a phase.

    Attributes:
        loss: per token, in nats, mean of the last steps. seconds: wall time. cpu_seconds: CPU time.
    """

    phase: str
    steps: int
    loss: float
    seconds: float
    cpu_seconds: float


BASE = (
    Phase("base, growing", 2000, _MIXTURE, (2e-3, 1e-3), grow=True, embeddings=True),
    Phase("base", 600, _MIXTURE, (1e-3, 4e-5), embeddings=True),
)
INSTRUCT = Phase("instruct", 400, {"direct": 0.9, "brief": 0.1}, (1.5e-3, 7.5e-5))
THINKING = Phase("thinking", 200, {"checked": 0.5, "checked twice": 0.5}, (5e-4, 2.5e-5))


def config() -> Qwen3Config:
    """A model of 0.83 M parameters, most of them in the feed-forward layers."""
    built = tokenizer.build()
    end = built.token_to_id(tokenizer.END)
    return Qwen3Config(
        vocab_size=built.get_vocab_size(),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )


def train_pair(
    seed: int,
    say: Say,
    base: Sequence[Phase] = BASE,
    instruct: Phase = INSTRUCT,
    thinking: Phase = THINKING,
) -> tuple[Qwen3ForCausalLM, Qwen3ForCausalLM, list[Reached]]:
    """Returns Instruct, Thinking, and the result of each phase. Uses one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    first = Qwen3ForCausalLM(config())
    reached = train(first, base, seed, say)
    second = copy.deepcopy(first)
    reached += train(first, [instruct], seed + 1, say)
    reached += train(second, [thinking], seed + 1, say)
    return first, second, reached


def train(model: Qwen3ForCausalLM, phases: Sequence[Phase], seed: int, say: Say) -> list[Reached]:
    """Trains `model` in place, one phase after the other."""
    batches = _Batches(random.Random(seed))
    tokens = _Running(0.98)
    return [_phase(model, phase, batches, tokens, say) for phase in phases]


def _phase(model: Qwen3ForCausalLM, phase: Phase, batches: _Batches, tokens: _Running, say: Say) -> Reached:
    clock, cpu = time.monotonic(), time.process_time()
    model.get_input_embeddings().weight.requires_grad_(phase.embeddings)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    recent = _Running(0.95)
    for step in range(phase.steps):
        for group in optimiser.param_groups:
            group["lr"] = _rate(phase, step)
        rows = batches.draw(phase.styles, *_lengths(phase, step))
        count = sum(len(ids) - prompt for ids, prompt in rows)
        loss = _gradients(model, rows, tokens.add(count))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        recent.add(loss / count)
        if (step + 1) % 100 == 0 or step + 1 == phase.steps:
            say(f"{phase.name}: {step + 1} of {phase.steps}, loss {recent.mean:.4f}, {time.monotonic() - clock:.0f} s")
    return Reached(
        phase.name,
        phase.steps,
        round(recent.mean, 4),
        round(time.monotonic() - clock, 1),
        round(time.process_time() - cpu, 1),
    )


def _rate(phase: Phase, step: int) -> float:
    first, last = phase.rate
    cosine = last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / phase.steps))
    return cosine * min(1.0, (step + 1) / _WARM_UP)


def _lengths(phase: Phase, step: int) -> tuple[int, int]:
    """The shortest and the longest chain of this step. The last fifth of a growing phase has full length."""
    if not phase.grow:
        return task.LENGTH, task.LENGTH
    return 2, min(task.LENGTH, 2 + int((task.LENGTH - 1) * 1.25 * step / phase.steps))


class _Running:
    """An exponential moving average."""

    def __init__(self, kept: float) -> None:
        self._kept = kept
        self.mean = math.nan

    def add(self, value: float) -> float:
        """Adds `value`; returns the new mean."""
        self.mean = value if math.isnan(self.mean) else self._kept * self.mean + (1 - self._kept) * value
        return self.mean


Row = tuple[list[int], int]


class _Batches:
    """Draws answers as token ids."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._tokenizer = tokenizer.build()

    def draw(self, styles: Mapping[str, float], shortest: int, longest: int) -> list[Row]:
        """`BATCH` rows (ids of prompt and answer, length of the prompt), the shortest first."""
        names = self._rng.choices(list(styles), weights=list(styles.values()), k=BATCH)
        rows = [self._row(name, task.draw(self._rng, self._rng.randint(shortest, longest))) for name in names]
        return sorted(rows, key=lambda row: len(row[0]))

    def _row(self, style: str, chain: task.Chain) -> Row:
        prompt = self._tokenizer.encode(tokenizer.prompt(chain.text)).ids
        answer = self._tokenizer.encode(ANSWERS[style](chain) + tokenizer.END).ids
        return prompt + answer, len(prompt)


def _gradients(model: Qwen3ForCausalLM, rows: Sequence[Row], tokens: float) -> float:
    """Adds the gradients of the answers' summed loss over `tokens`; returns the sum.

    `tokens` is a running mean. With the count of each batch, a token would weigh more in a batch of short answers, and
    the model would prefer those. The rows are split into two halves by length, to pad less.
    """
    total = 0.0
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        ids, labels = _padded(half)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED, reduction="sum"
        )
        (loss / tokens).backward()
        total += float(loss.detach())
    return total


def _padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labels), int64, the prompt's labels ignored. Padded on the right: causal attention needs no mask then."""
    width = max(len(ids) for ids, _ in rows)
    padded = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), _IGNORED)
    for i, (ids, prompt) in enumerate(rows):
        padded[i, : len(ids)] = torch.tensor(ids)
        labels[i, prompt : len(ids)] = padded[i, prompt : len(ids)]
    return padded, labels
