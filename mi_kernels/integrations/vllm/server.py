"""vLLM's OpenAI-compatible server in this process: its own parser for its options, and its own way to run.

vLLM is imported in the functions, because that takes seconds.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from ...errors import ArgumentError, BackendError, MIKernelsError
from .import_failure import import_failure
from .listening import wait_until_healthy

_NOT_GIVEN: Any = object()


class ServerOptions:
    """The parser of vLLM's server. It knows `--api-key=K`, `--api_key K`, `--config FILE.yaml` and dotted options.

    Raises:
        BackendError: vLLM cannot be imported.
    """

    def __init__(self) -> None:
        try:
            from vllm.entrypoints.launchers.cli_args import make_arg_parser
            from vllm.utils.argparse_utils import FlexibleArgumentParser
        except Exception as error:  # a broken installation raises more than ImportError
            raise import_failure(error) from error

        class Parser(FlexibleArgumentParser):
            def error(self, message: str) -> NoReturn:
                raise ArgumentError(
                    f"vLLM's options: {message}", "`mi-kernels serve A B --lam 0.5 -- --help` lists them."
                )

        self._parser = make_arg_parser(Parser(prog="mi-kernels serve INSTRUCT THINKING --lam LAM --"))

    def parse(self, words: Sequence[str]) -> Namespace:
        """Returns the options of a command line.

        Raises:
            ArgumentError: an option or its value is invalid, or a config file cannot be read.
        """
        return self._parse(words, Namespace())

    def given(self, words: Sequence[str], names: Collection[str]) -> dict[str, Any]:
        """Returns those of the options `names` that a command line or its config file sets, with their values."""
        found = vars(self._parse(words, Namespace(**dict.fromkeys(names, _NOT_GIVEN))))
        # argparse sets model_tag, which is not an option but a word, even if it is not given.
        return {n: found[n] for n in names if found[n] is not _NOT_GIVEN and (n, found[n]) != ("model_tag", None)}

    def _parse(self, words: Sequence[str], namespace: Namespace) -> Namespace:
        try:
            parsed: Namespace = self._parser.parse_args(list(words), namespace)
        except MIKernelsError:
            raise
        except Exception as error:  # of --config: OSError, AssertionError, errors of YAML, and others
            lines = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
            raise ArgumentError(
                f"vLLM's options: {lines or type(error).__name__}", "Correct the options after --, or the config file."
            ) from error
        return parsed


def has_key(options: Namespace, environment: Mapping[str, str]) -> bool:
    """Returns whether vLLM's server will ask for a key: --api-key, or VLLM_API_KEY if it is not given."""
    keys = getattr(options, "api_key", None) or [environment.get("VLLM_API_KEY")]
    return any([keys] if isinstance(keys, str) else keys)


def run_server(options: Namespace, answers: Callable[[], None]) -> None:
    """Runs the server until a signal stops it.

    Args:
        options: from `ServerOptions.parse`.
        answers: called once, when the server answers its first request.

    Raises:
        ArgumentError: vLLM rejects a combination of options.
        BackendError: vLLM cannot start the engine.
    """
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server as run
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args

    async def serve() -> None:
        waiting = asyncio.create_task(wait_until_healthy(options, answers))
        try:
            await run(options)
        finally:
            waiting.cancel()

    cli_env_setup()
    configure_logging_from_args(options)
    try:
        validate_parsed_serve_args(options)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"vLLM's options: {error}", "Correct the options after --.") from error
    try:
        uvloop.run(serve())
    except MIKernelsError:
        raise
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BackendError(
            f"vLLM cannot serve: {first}", "The first error in vLLM's messages above is the cause."
        ) from error
