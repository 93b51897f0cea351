"""Faults in csrc and in what launches the kernels."""

from __future__ import annotations

from . import Fault

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
        old="        _captured.append(part)\n",
        new="",
        tests=("tests/backends/test_device_table.py",),
    ),
    Fault(
        "graph-captured-before-the-upload",
        "mi_kernels/backends/device_table.py",
        old="        part.ready.synchronize()\n",
        new="",
        tests=("tests/backends/test_device_table.py",),
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
