"""Generates with vLLM inside an engine process; each response is returned as soon as it is finished."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mi_kernels.errors import ArgumentError, MismatchError
from mi_kernels.integrations import vllm as live
from mi_kernels.integrations.vllm.self_check import SelfCheck

from . import Completion, PairRefusal, Request
from .chat import chat_tokens, hides_thinking
from .live_session import loader_config

if TYPE_CHECKING:
    from .worker import Feed


class VllmBackend:
    """A `worker.Backend`. On the CPU one process opens several models in turn; only the end of a process surely frees
    the memory of a GPU."""

    def __init__(self) -> None:
        self._llm: Any = None
        self._tokenizer: Any = None  # makes the prompts
        self._files: str | None = None  # the folder that it is from, of a pair

    def open(self, model: str | Mapping[str, Any], length: int, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Loads a model.

        Args:
            model: a folder; or a pair, as {"instruct", "thinking", "recipe", "files", "resident"}: both folders, what
                to interpolate first, the folder with the small files of the merge, and where a GPU engine keeps the
                two models: "device" or "host".
        """
        import vllm

        self._llm = self._tokenizer = None
        gc.collect()
        settings = llm_arguments(length, options)
        shown = dict(settings)
        if isinstance(model, str):
            self._llm = vllm.LLM(model=model, **settings)
        else:
            self._llm = vllm.LLM(**pair_arguments(model), **settings)
            shown["live"] = self._checked()
            self._files = model["files"]
        self._tokenizer = self._llm.get_tokenizer()
        return {"name": "vllm", "version": vllm.__version__, "settings": shown}

    def _checked(self) -> str:
        """How the weights change. Raises PairRefusal if a change would not give the bits of the merge."""
        checks = [SelfCheck.from_dict(answer) for answer in self._llm.collective_rpc("mi_kernels_self_check")]
        for check in checks:
            try:
                check.require()
            except MismatchError as error:
                raise PairRefusal(error.problem) from error
        return checks[0].way

    def set(self, recipe: Mapping[str, Any], files: str) -> Mapping[str, Any]:
        """Changes the weights of the pair to another merge.

        Args:
            recipe: of `Recipe.to_dict`. files: the folder with the small files of the merge, for its chat template.
        """
        from vllm.tokenizers import get_tokenizer

        given = {key: value for key, value in recipe.items() if key != "extrapolate"}  # the engine always does
        try:
            answer = live.set_lam(self._llm, **given)
        except ArgumentError as error:
            raise PairRefusal(error.problem) from error
        if files != self._files:
            self._tokenizer, self._files = get_tokenizer(files), files
        return {"seconds": answer["seconds"]}

    def running(self) -> list[int]:
        """The tokens of each response that has begun. Empty if this vLLM keeps them elsewhere."""
        try:
            states = self._llm.llm_engine.output_processor.request_states.values()
            return [n for state in states if (n := state.detokenizer.num_output_tokens()) > 0]
        except AttributeError:
            return []

    def generate(self, requests: Feed) -> Iterator[Completion]:
        engine, length = self._llm.llm_engine, self._llm.model_config.max_model_len
        tokenizer = self._tokenizer
        skip = not hides_thinking(tokenizer)
        while True:
            for request in requests.take(wait=not engine.has_unfinished_requests()):
                tokens = chat_tokens(tokenizer, request.prompt, length)
                engine.add_request(str(request.index), {"prompt_token_ids": tokens}, _parameters(request, skip))
            if not engine.has_unfinished_requests():
                return
            for output in engine.step():
                if output.finished:
                    choice = output.outputs[0]
                    yield Completion(
                        int(output.request_id), choice.text, len(choice.token_ids), str(choice.finish_reason)
                    )


def llm_arguments(length: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `vllm.LLM` for prompts and responses of `length` tokens together."""
    arguments: dict[str, Any] = {"dtype": options["dtype"], "max_model_len": length, "seed": 0}
    for name in ("max_num_seqs", "gpu_memory_utilization"):
        if options[name] is not None:
            arguments[name] = options[name]
    if options["on_cpu"]:
        # Compiling takes minutes on a CPU, and without a size vLLM takes 92 % of the memory.
        # A seeded request with a chunked prefill stops vLLM 0.32 on a CPU: it resets the generator, which the CPU
        # generator of torch does not support.
        arguments.update(
            enforce_eager=True, kv_cache_memory_bytes=options["kv_cache_memory"], enable_chunked_prefill=False
        )
    elif options["tensor_parallel"] > 1:
        arguments["tensor_parallel_size"] = options["tensor_parallel"]
    return {**arguments, **(options["extra"] or {})}


def pair_arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `vllm.LLM` for a pair of models; see `VllmBackend.open`."""
    return {
        "model": model["instruct"],
        "hf_config_path": model["files"],
        "tokenizer": model["files"],
        "load_format": live.LOAD_FORMAT,
        "worker_extension_cls": live.LIVE,
        "model_loader_extra_config": loader_config(model),
    }


def _parameters(request: Request, skip_special_tokens: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=request.seed,
        skip_special_tokens=skip_special_tokens,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
