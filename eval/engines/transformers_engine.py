"""Generates with transformers inside an engine process, for machines on which vLLM cannot be installed.

Each response has its own random generator, so other responses in the batch change at most the last bits of its logits.
A batch ends when its longest response ends.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import Completion, Request
from .chat import chat_tokens, hides_thinking

if TYPE_CHECKING:
    from .worker import Feed


class TransformersBackend:
    """A `worker.Backend`. Uses the first GPU, or the CPU if the machine has none."""

    def __init__(self) -> None:
        self._model: Any = None
        self._tokenizer: Any = None
        self._length = 0
        self._batch = 0
        self._texts: list[list[int]] = []
        self._open: set[int] = set()

    def open(self, model: str, length: int, options: Mapping[str, Any]) -> Mapping[str, Any]:
        import torch
        import transformers

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=options["dtype"]).to(device).eval()
        self._length, self._batch = length, options["max_num_seqs"]
        settings = {"dtype": options["dtype"], "device": device, "max_num_seqs": self._batch}
        return {"name": "transformers", "version": transformers.__version__, "settings": settings}

    def generate(self, requests: Feed) -> Generator[Completion | None, None, None]:
        import torch

        while batch := requests.take(self._batch, wait=True):
            with torch.inference_mode():
                yield from self._generate_batch(batch)

    def running(self) -> list[int]:
        """The tokens of each response in the batch that is not finished."""
        return [len(self._texts[row]) for row in self._open]

    def _generate_batch(self, requests: Sequence[Request]) -> Iterator[Completion | None]:
        import torch

        device = self._model.device
        prompts = [chat_tokens(self._tokenizer, r.prompt, self._length) for r in requests]
        limits = [min(r.sampling.max_tokens, self._length - len(p)) for r, p in zip(requests, prompts)]
        widest = max(map(len, prompts))
        ids = torch.tensor([[0] * (widest - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (widest - len(p)) + [1] * len(p) for p in prompts], device=device)
        generators = [torch.Generator().manual_seed(r.seed) for r in requests]
        ends = _end_tokens(self._model)
        texts = self._texts = [[] for _ in requests]
        open_rows = self._open = set(range(len(requests)))
        cache = None
        while open_rows:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = self._model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            cache, logits = out.past_key_values, out.logits[:, -1].float().cpu()
            following = [0] * len(requests)
            for row in sorted(open_rows):
                following[row] = _draw(logits[row], requests[row], generators[row])
                texts[row].append(following[row])
                stopped = following[row] in ends
                if stopped or len(texts[row]) >= limits[row]:
                    open_rows.discard(row)
                    yield self._completion(requests[row], texts[row], stopped)
            ids = torch.tensor(following, device=device)[:, None]
            mask = torch.cat([mask, mask.new_ones(len(requests), 1)], dim=1)
            yield None

    def _completion(self, request: Request, tokens: list[int], stopped: bool) -> Completion:
        text = self._tokenizer.decode(
            tokens[:-1] if stopped else tokens, skip_special_tokens=not hides_thinking(self._tokenizer)
        )
        return Completion(request.index, text, len(tokens), "stop" if stopped else "length")


def _end_tokens(model: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = model.config.eos_token_id
    return set(ends) if isinstance(ends, list) else set() if ends is None else {ends}


def _draw(logits: Any, request: Request, generator: Any) -> int:
    """Draws one token: temperature, then top_k, then top_p among the rest, in the order of vLLM.

    Args:
        logits: float32 of shape (vocabulary,). request: with temperature 0, the most likely token is taken.
    """
    import torch

    sampling = request.sampling
    if sampling.temperature == 0:
        return int(logits.argmax())
    count = min(sampling.top_k, len(logits)) if sampling.top_k > 0 else len(logits)
    values, tokens = (logits / sampling.temperature).topk(count)
    shares = values.softmax(0)
    before = shares.cumsum(0) - shares
    shares = shares.masked_fill(before >= sampling.top_p, 0.0)
    return int(tokens[torch.multinomial(shares, 1, generator=generator)])
