"""The tiny pair's tokenizer: bytes, and an operator with its digit as one token.

With `-` and `6` as two tokens, a model of this size never learns to copy a step, because the label is then two
positions before the digit.
"""

from __future__ import annotations

import json
import os

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
# Both models have the same template, and `<think>` is generated. The template of the real Thinking model opens the
# block itself; for so small a model that would determine the style at every lam.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% else %}<|assistant|>{{ message['content'] }}<|end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build() -> Tokenizer:
    """256 bytes, `+0` to `=9`, three special tokens, `<think>` and `</think>`: 301 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(operator, str(digit)) for operator in "+-*=" for digit in range(10)]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (USER, ASSISTANT, END)]
    )
    # Ordinary tokens: `skip_special_tokens` must keep them in the text, because Think #R counts them.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return tokenizer


def prompt(question: str) -> str:
    """One user turn in the chat template."""
    return f"{USER}{question}{ASSISTANT}"


def save(folder: str) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Not with `save_pretrained`: transformers 5 writes a class name that transformers 4 does not know.
    """
    build().save(os.path.join(folder, "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
    }
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    with open(os.path.join(folder, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(CHAT_TEMPLATE + "\n")
