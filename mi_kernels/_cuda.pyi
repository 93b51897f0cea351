"""The compiled CUDA kernels (csrc/cuda), in wheels for a CUDA version only. Importing needs no driver; calling does."""

CUDA_VERSION: str  # what the kernels were compiled with: "cu128"

class CudaError(RuntimeError):
    """The driver refused, or is missing: the call, the error's name and its meaning."""

def driver_version() -> int: ...
def device_count() -> int: ...
def compute_capability(device: int) -> tuple[int, int]: ...
def prepare(device: int) -> None:
    """Loads the kernels onto a device; does nothing the second time. Not in a stream capture."""

def launch(
    device: int,
    stream: int,
    *,
    tensors: int,
    weights: int,
    chunk_tensor: int,
    chunk_start: int,
    chunks: int,
    chunk: int,
    out_dtype: int,
    a_dtype: int,
    b_dtype: int,
) -> None:
    """One launch over a table (backends/table.py) in the device's memory: the addresses of its sections, the number of
    chunks and the elements in one, dtypes 0 bf16, 1 float16, 2 float32. Asynchronous; the table stays the caller's.

    Raises:
        ValueError: an argument out of range, or a device that was not prepared.
        CudaError: the launch failed.
    """
