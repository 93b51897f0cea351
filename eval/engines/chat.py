"""A prompt as the model reads it: its own chat template, one user turn, no system prompt."""

from __future__ import annotations

from typing import Any

from . import Refusal


def chat_tokens(tokenizer: Any, prompt: str, length: int) -> list[int]:
    """Token ids of `prompt` as the user's turn, up to where the model begins to answer.

    Raises:
        Refusal: the tokenizer has no chat template, or the prompt leaves no room for an answer in `length` tokens.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise Refusal("the model has no chat template: is it an instruct or thinking model?")
    turn = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(tokens) >= length:
        raise Refusal(f"a prompt has {len(tokens):,} tokens, and the model's context is {length:,}")
    return tokens


def hides_thinking(tokenizer: Any) -> bool:
    """Whether leaving out special tokens would drop `</think>`, by which Think #R is counted."""
    return "</think>" in tokenizer.all_special_tokens
