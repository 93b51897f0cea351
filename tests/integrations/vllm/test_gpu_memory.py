"""Whether GPUs can hold a pair whose lam changes: hardware that is made up, and a library that stands in for NVML."""

from __future__ import annotations

import shutil
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

from mi_kernels.errors import ArgumentError
from mi_kernels.integrations.vllm import gpu_memory
from mi_kernels.integrations.vllm.gpu_memory import Gpu, Need, check_gpus, need_of

H100 = Gpu(total=80 * 10**9, free=79 * 10**9)  # about one


@pytest.mark.parametrize(
    ("need", "gpus", "problem", "remedy"),
    [
        # 180 GB on one GPU; with the copies in host memory, 60 GB.
        (Need(30 * 10**9, share=0.9), [H100], "needs 180 GB on the GPU (the weights and 2 copies)", "--resident host"),
        (Need(30 * 10**9, workers=2, share=0.9), [H100] * 2, "needs 90 GB on each GPU", "--tensor-parallel-size"),
        (
            Need(30 * 10**9, copies=0, itemsize=4),
            [H100],
            "needs 120 GB on the GPU (the weights alone)",
            "Use more GPUs",
        ),
        (Need(10**10, share=0.5), [H100], "vLLM may use 40 GB of its 80 GB", "--resident host"),
        (Need(10**10), [Gpu(80 * 10**9, 50 * 10**9)], "other programs leave 50 GB of its 80 GB", "Stop the other"),
        (Need(10**10), [Gpu(80 * 10**9, 10**9)], "other programs leave 1 GB of its 80 GB", "Stop the other"),
    ],
)
def test_gpus_that_are_too_small(need: Need, gpus: list[Gpu], problem: str, remedy: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        check_gpus(need, gpus)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("need", "gpus"),
    [
        (Need(10**10, share=0.9), [H100]),
        (Need(30 * 10**9, share=0.9, workers=4), [H100] * 4),
        (Need(30 * 10**9, share=0.9, copies=0), [H100]),
        (Need(10**15), []),  # no GPU, or none that can be asked
        (Need(10**10), [Gpu(8 * 10**9, 0), H100]),  # the best one counts: which of them vLLM takes is not known
    ],
)
def test_gpus_that_may_be_large_enough(need: Need, gpus: list[Gpu]) -> None:
    check_gpus(need, gpus)


def test_what_a_server_needs() -> None:
    """The numbers come from vLLM's options; its defaults where an option is missing."""
    assert need_of(100, Namespace(), "device") == Need(100)
    assert need_of(100, Namespace(gpu_memory_utilization=0.9, dtype="float32"), "host") == Need(100, 4, 0, 1, 0.9)
    options = Namespace(tensor_parallel_size=4, pipeline_parallel_size=2, data_parallel_size=1)
    assert need_of(100, options, "device").workers == 8
    assert need_of(100, Namespace(gpu_memory_utilization=0.5, kv_cache_memory_bytes=1), "device").share == 1
    check_gpus(need_of(10**15, Namespace(cpu_offload_gb=100), "device"), [H100])


NVML = """
typedef struct { unsigned long long total, free, used; } Memory;
int nvmlInit_v2() { return INIT; }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(index + 1ull);
    return index == 1;
}
int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    memory->total = (unsigned long long)handle << 40;
    memory->free = 5;
    return 0;
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_memory_of_gpus_comes_from_nvml(tmp_path: Path) -> None:
    """From a library with NVML's functions and structures, in which the second of three GPUs cannot be asked."""
    for name, status in (("nvml", "0"), ("broken", "1")):
        (tmp_path / f"{name}.c").write_text(NVML)
        command = ["cc", "-shared", "-fPIC", f"-DINIT={status}", "-o", f"{name}.so", f"{name}.c"]
        subprocess.run(command, cwd=tmp_path, check=True)
    library = str(tmp_path / "nvml.so")
    assert gpu_memory.gpus({}, library) == [Gpu(1 << 40, 5), Gpu(3 << 40, 5)]
    assert gpu_memory.gpus({"CUDA_VISIBLE_DEVICES": "0"}, library) != []
    assert gpu_memory.gpus({"CUDA_VISIBLE_DEVICES": ""}, library) == []
    assert gpu_memory.gpus({}, str(tmp_path / "broken.so")) == []
    assert gpu_memory.gpus({}, str(tmp_path / "none.so")) == []
