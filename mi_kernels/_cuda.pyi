"""The compiled CUDA kernels (csrc/cuda), in wheels for a version of CUDA. Importing does not need a driver."""

CUDA_VERSION: str  # the version of CUDA that compiled the kernels, such as "cu128"

class CudaError(RuntimeError):
    """The driver reported an error, or is missing. The message has the call, the name of the error and its meaning."""

def driver_version() -> int: ...
def device_count() -> int: ...
def compute_capability(device: int) -> tuple[int, int]: ...
def prepare(device: int) -> None:
    """Loads the kernels onto a device, if they are not yet loaded. Do not call it during a stream capture."""

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
    """Launches the kernels over a table (backends/chunk_table.py) in device memory, asynchronously.

    The caller keeps the table alive until the work is done.

    Args:
        tensors, weights, chunk_tensor, chunk_start: device addresses of the sections of the table.
        chunks: the number of chunks.
        chunk: the elements in a chunk.
        out_dtype, a_dtype, b_dtype: 0 bf16, 1 float16, 2 float32.

    Raises:
        ValueError: an argument is out of range, or the device was not prepared.
        CudaError: the launch failed.
    """
