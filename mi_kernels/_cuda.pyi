"""The compiled CUDA kernels (csrc/cuda), in wheels for a version of CUDA. Importing does not need a driver."""

COMBINE_SIZE: int  # bytes of `struct Combine` (csrc/combine.h)
SEARCH_SIZE: int  # bytes of device memory that `kth_difference` needs
SEARCH_RESULT: int  # where in it the result is: the bits of a float32
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

def launch_combine(
    device: int,
    stream: int,
    *,
    tensors: int,
    combines: int,
    chunk_tensor: int,
    chunk_start: int,
    chunks: int,
    chunk: int,
    models: int,
    bf16: bool,
) -> None:
    """Launches the kernel for this number of models over a table (backends/combine_table.py), asynchronously.

    The caller keeps the table alive until the work is done.

    Args:
        tensors, combines, chunk_tensor, chunk_start: device addresses of the sections of the table.
        chunks: the number of chunks.
        chunk: the elements in a chunk.
        models: the number of operands, 1 to 16.
        bf16: whether all tensors are bf16; used for 2 to 5 models.

    Raises:
        ValueError: an argument is out of range, or the device was not prepared.
        CudaError: the launch failed.
    """

def kth_difference(
    device: int, stream: int, *, x: tuple[int, int], base: tuple[int, int], count: int, k: int, search: int
) -> None:
    """Finds the k-th largest |x - base|, asynchronously.

    Args:
        x, base: device address and dtype of `count` elements.
        k: 1 to `count`.
        search: device address of SEARCH_SIZE bytes, all zero. The result is at SEARCH_RESULT.

    Raises:
        ValueError: an argument is out of range, or the device was not prepared.
        CudaError: a launch failed.
    """

def moments(
    device: int,
    stream: int,
    *,
    a: tuple[int, int],
    b: tuple[int, int],
    base: tuple[int, int] | None,
    count: int,
    parts: int,
    totals: int,
) -> None:
    """Computes the moments of a and b, or of a - base and b - base, for each piece of 2**20 elements, asynchronously.

    Args:
        a, b, base: device address and dtype of `count` elements, at least 1.
        parts: device address of 1,024 bytes for every 1,024 elements or part of them.
        totals: device address of float64 [pieces, 8].

    Raises:
        ValueError: an argument is out of range, or the device was not prepared.
        CudaError: a launch failed.
    """
