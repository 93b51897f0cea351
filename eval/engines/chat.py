"""Applies the chat template of the model to a prompt: one user turn, no system prompt."""

from __future__ import annotations

from typing import Any

from . import Refusal


def chat_tokens(tokenizer: Any, prompt: str, length: int) -> list[int]:
    """Token ids of `prompt` as the user turn, up to the point where the answer begins.

    Raises:
        Refusal: the tokenizer has no chat template, or the prompt does not fit into `length` tokens with an answer.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise Refusal("the model has no chat template, which instruct and thinking models have")
    turn = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(tokens) >= length:
        raise Refusal(f"a prompt has {len(tokens):,} tokens, but the context of the model is {length:,}")
    return tokens


def hides_thinking(tokenizer: Any) -> bool:
    """Whether `</think>` is a special token: then special tokens must be kept, because Think #R counts it."""
    return "</think>" in tokenizer.all_special_tokens
