"""Faults in csrc and in what launches the kernels."""

from __future__ import annotations

from . import Fault

_RUNNER = "tests/backends/test_gpu_runner.py"

FAULTS: list[Fault] = [
    # What launches the kernels on a GPU.
    Fault(
        "table-memory-given-away-under-another-stream",
        "mi_kernels/backends/device_table.py",
        old="        part.packed.record_stream(stream)\n",
        new="",
        tests=("tests/backends/test_device_table.py",),
    ),
    Fault(
        "table-read-before-its-upload",
        "mi_kernels/backends/device_table.py",
        old="        stream.wait_event(part.ready)\n",
        new="",
        tests=("tests/backends/test_device_table.py",),
    ),
    Fault(
        "graph-replayed-without-its-table",
        "mi_kernels/backends/device_table.py",
        old="        _captured[id(part)] = part\n",
        new="",
        tests=("tests/backends/test_device_table.py",),
    ),
    Fault(
        "prepared-tensors-not-watched",
        "mi_kernels/ops/prepared.py",
        old="            self._check_memory()\n",
        new="",
        tests=("tests/ops/test_prepared.py",),
    ),
    Fault(
        "prepared-skips-what-others-wrote",
        "mi_kernels/ops/prepared.py",
        old="        done[changed] = False\n",
        new="",
        tests=("tests/ops/test_prepared.py",),
    ),
    Fault(
        "a-write-that-autograd-does-not-see",
        "mi_kernels/ops/eager.py",
        old="        torch.autograd.graph.increment_version(tensors)\n",
        new="        pass\n",
        tests=("tests/ops/test_prepared.py",),
    ),
    Fault(
        "modules-compared-by-their-number",
        "csrc/cpu/tensors_binding.cpp",
        old="value != PyList_GET_ITEM(expected.ptr(), Py_ssize_t(k++))",
        new="!PyList_GET_ITEM(expected.ptr(), Py_ssize_t(k++))",
        tests=("tests/live/test_live.py",),
    ),
    Fault(
        "graph-captured-before-the-upload",
        "mi_kernels/backends/device_table.py",
        old="        part.ready.synchronize()\n",
        new="",
        tests=("tests/backends/test_device_table.py",),
    ),
    # Merges on a GPU.
    Fault(
        "piece-computed-before-it-has-arrived",
        "mi_kernels/backends/gpu_runner.py",
        old="        gpu.compute.wait_event(piece.uploaded)\n",
        new="",
        tests=(_RUNNER,),
    ),
    Fault(
        "piece-copied-out-before-it-is-computed",
        "mi_kernels/backends/gpu_runner.py",
        old="        gpu.copy_out.wait_event(piece.computed)\n",
        new="",
        tests=(_RUNNER,),
    ),
    Fault(
        "piece-given-back-under-pending-copies",
        "mi_kernels/backends/gpu_runner.py",
        old="                    stream.synchronize()\n",
        new="                    pass\n",
        tests=(f"{_RUNNER}::test_a_failed_launch_names_the_device_and_leaves_no_pending_work",),
    ),
    Fault(
        "formula-starts-again-in-each-part",
        "mi_kernels/backends/gpu_runner.py",
        old="span.first + part.first",
        new="span.first",
        tests=(f"{_RUNNER}::test_formulas_are_bit_identical_to_the_cpu",),
    ),
    Fault(
        "last-piece-a-sliver",
        "mi_kernels/backends/piece.py",
        old="(cut := total * number // pieces)",
        new="(cut := (room - slack) * number)",
        tests=("tests/backends/test_piece.py",),
    ),
    Fault(
        "memory-unpinned-under-pending-copies",
        "mi_kernels/backends/pinned.py",
        old="        pinning.wait()\n",
        new="        pass\n",
        tests=("tests/backends/test_pinned.py",),
    ),
    Fault(
        "memory-pinned-after-close",
        "mi_kernels/backends/pinned.py",
        old="                self._unpin()\n",
        new="                pass\n",
        tests=("tests/backends/test_pinned.py",),
    ),
    # csrc.
    Fault(
        "no-fence-after-streaming-stores",
        "csrc/cpu/loop.h",
        old="    L::fence();\n",
        new="",
        tests=("tests/kernels/test_kernels.py::test_streaming_stores_are_fenced_before_a_kernel_returns",),
        ci=True,
    ),
    Fault(
        "dare-keeps-its-own-density",
        "csrc/combine.h",
        old="(key, index)) < t.kept ?",
        new="(key, index)) <= t.kept ?",
        tests=("tests/kernels/test_combine_kernels.py::test_dare_drops_the_element_whose_number_is_the_density",),
    ),
    Fault(
        "fp8-subnormals-follow-the-caller",
        "csrc/cpu/virtual_run.cpp",
        old="    DefaultFloatEnvironment environment;\n    const std::size_t blocks =",
        new="    const std::size_t blocks =",
        tests=("tests/checkpoint/test_fp8.py::test_flush_to_zero_of_the_caller_changes_nothing",),
    ),
    Fault(
        "only-the-last-block-of-a-piece-counts",
        "csrc/cpu/crc32c_binding.cpp",
        old="if (type != kBytes && !found) found =",
        new="if (type != kBytes) found =",
        tests=("tests/checksums/test_checksums.py::test_a_value_that_is_not_finite_is_found_in_any_block_of_a_piece",),
    ),
    Fault(
        "guard-outlives-its-map",
        "csrc/cpu/guard.cpp",
        old="    maps[slot].end.store(nullptr);\n",
        new="    (void)slot;\n",
        tests=("tests/checkpoint/test_guard.py::test_dropping_a_map_ends_its_guard",),
    ),
    Fault(
        "guard-covers-the-page-behind",
        "csrc/cpu/guard.cpp",
        old="(bytes + page_size - 1) / page_size * page_size",
        new="(bytes + page_size) / page_size * page_size",
        tests=("tests/checkpoint/test_guard.py::test_a_guard_ends_where_its_map_does",),
    ),
    Fault(
        "damage-stays-with-the-slot",
        "csrc/cpu/guard.cpp",
        old="    map.damage.store(kIntact);\n",
        new="",
        tests=("tests/checkpoint/test_guard.py::test_maps_have_marks_of_their_own",),
    ),
    Fault(
        "guard-takes-down-the-handler-above",
        "csrc/cpu/guard.cpp",
        old="        if (!ours(now)) continue;  // a handler above ours may still call ours",
        new="        //",
        tests=("tests/checkpoint/test_guard.py::test_signal_handlers_of_other_libraries",),
    ),
]
