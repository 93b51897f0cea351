"""vLLM's OpenAI-compatible server in this process: its own parser for its options, and its own way to run.

vLLM is imported in the functions, because that takes seconds.
"""

from __future__ import annotations

import asyncio
import errno
import signal
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from ...errors import ArgumentError, BackendError, MIKernelsError
from . import LOAD_FORMAT
from .import_failure import import_failure
from .listening import refuse_taken, wait_until_healthy
from .preflight import check_models, options_of

_NOT_GIVEN: Any = object()


class Stopped(BaseException):
    """A signal has stopped the server before it answered.

    Attributes:
        number: the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


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
        ArgumentError: vLLM rejects a combination of options, or the address is in use.
        CheckpointError: a model was removed or changed since it was checked.
        BackendError: vLLM cannot start the engine, or the engine has died.
        Stopped: a signal came before the server answered.
    """
    import uvloop

    signals: list[int] = []

    class Loop(uvloop.Loop):  # type: ignore[misc,unused-ignore]
        """Remembers the signals that vLLM handles while it serves."""

        def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
            def handle() -> None:
                signals.append(sig)
                callback(*args)

            super().add_signal_handler(sig, handle)

    from vllm.entrypoints.launchers.api_server.entry import run_server_worker
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.system_utils import decorate_logs

    async def serve() -> None:
        waiting = asyncio.create_task(wait_until_healthy(options, answers))
        try:
            address, sock = setup_server(options, reuse_port=False)
            await run_server_worker(address, sock, options)
        finally:
            waiting.cancel()

    cli_env_setup()
    configure_logging_from_args(options)
    try:
        validate_parsed_serve_args(options)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"vLLM's options: {error}", "Correct the options after --.") from error
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        raise Stopped(number)

    # vLLM ignores a KeyboardInterrupt while it waits for its engine, and its own handler of SIGTERM raises one. It
    # replaces both handlers when it serves.
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    decorate_logs("APIServer", skip_if_decorated=True)
    try:
        uvloop.run(serve(), loop_factory=Loop)
    except MIKernelsError:
        raise
    except Exception as error:
        if stopped:  # the signal has stopped the engine, too
            raise Stopped(stopped[0]) from error
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            refuse_taken(options)
        if options.load_format == LOAD_FORMAT:
            # A model that was removed since the first check has other errors in vLLM, such as that of a wrong Hub id.
            check_models(options.model, options_of(options.model_loader_extra_config))
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BackendError(
            f"vLLM cannot serve: {first}", "The first error in vLLM's messages above is the cause."
        ) from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if not signals:  # vLLM's server ends by itself only when its engine has died, and then as if all were well
        raise BackendError(
            "vLLM's engine has died, and the server has stopped",
            "vLLM's messages above say what the engine did last. Run the command again to start the server.",
        )
