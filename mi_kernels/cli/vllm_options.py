"""Which of vLLM's options, after `--`, `mi-kernels serve` accepts. Whoever reads them uses vLLM's own parser."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..errors import ArgumentError
from ..integrations.vllm.addresses import is_loopback

# vLLM's options that `serve` sets itself, and what to use instead.
REFUSED = {
    "model": "INSTRUCT is vLLM's model.",
    "model_tag": "INSTRUCT is vLLM's model. Write every option with its dashes.",
    "revision": "Write INSTRUCT as ORG/NAME@REVISION.",
    "load_format": "Leave it out: the format is mi_kernels.",
    "model_loader_extra_config": "Use --lam, --layers, --modules, --extrapolate and --resident before --.",
    "worker_extension_cls": "Leave it out: `serve` needs it to change lam.",
    "host": "Give --host before --.",
    "port": "Give --port before --.",
    "quantization": "Leave it out, or merge into a folder with `mi-kernels lerp` and serve that folder.",
    "config": "vLLM reads it as two words only: --config FILE.yaml.",
}
# These replace what `serve` sets by --copy-from.
REPLACED = ("tokenizer", "generation_config")


def refuse_clashes(given: Collection[str]) -> None:
    """Refuses options of vLLM that `serve` sets itself.

    Args:
        given: names of options as vLLM's parser has them, such as "load_format".

    Raises:
        ArgumentError: one of them clashes.

    Example:
        >>> from mi_kernels.cli.vllm_options import refuse_clashes
        >>> refuse_clashes(["max_model_len"])
        >>> refuse_clashes(["port"])
        Traceback (most recent call last):
        mi_kernels.errors.ArgumentError: --port after -- clashes with an option of mi-kernels
        Give --port before --.
    """
    for name in given:
        if name == "model_tag":
            raise ArgumentError("the options after -- have a word that belongs to no option", REFUSED[name])
        if name in REFUSED:
            option = f"--{name.replace('_', '-')}"
            raise ArgumentError(f"{option} after -- clashes with an option of mi-kernels", REFUSED[name])


def written(words: Sequence[str]) -> list[str]:
    """Returns the names of options that are written in full, without vLLM, whose import takes seconds.

    vLLM's parser finds more: abbreviations and config files.

    Example:
        >>> from mi_kernels.cli.vllm_options import written
        >>> written(["--api_key=K", "--max-model-len", "100", "--compilation-config.mode", "3"])
        ['api_key', 'max_model_len', 'compilation_config']
    """
    options = [word[2:].split("=")[0].split(".")[0] for word in words if word.startswith("--")]
    return [option.replace("-", "_") for option in options if option != "config"]


def may_have_key(words: Sequence[str]) -> bool:
    """Returns whether vLLM's parser might find an API key. It also accepts `--api-k`, and reads config files."""
    return any(word.replace("_", "-").startswith(("--api", "--config")) for word in words)


def require_key(host: str, keyed: bool) -> None:
    """Raises:
    ArgumentError: other machines can reach `host`, and the server will not ask for a key.
    """
    if not keyed and not is_loopback(host):
        raise ArgumentError(
            f"--host {host} lets other machines use the server and change lam without an API key",
            "Set VLLM_API_KEY, or leave out --host.",
        )
