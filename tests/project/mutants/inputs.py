"""Faults in how inputs are read, matched and looked at, and in live models."""

from __future__ import annotations

from . import Fault

FAULTS: list[Fault] = [
    # The files of a model.
    Fault(
        "part-of-the-listed-set-taken-for-another",
        "mi_kernels/checkpoint/shards.py",
        old="[name for name in files if name not in named]",
        new="files",
        tests=("tests/hostile/test_refusals.py::test_broken_checkpoints",),
    ),
    Fault(
        "second-set-overlooked",
        "mi_kernels/checkpoint/shards.py",
        old="    if len(sets) > 1:\n",
        new="    if len(complete) > 1:\n",
        tests=("tests/checkpoint/test_shards.py::test_what_nobody_can_guess_is_refused",),
    ),
    Fault(
        "index-does-not-decide-between-two-shards",
        "mi_kernels/checkpoint/shards.py",
        old="        if listed.get(name) in holders:\n            place[name] = listed[name]\n",
        new="        if listed.get(name) in holders:\n            place[name] = holders[0]\n",
        tests=("tests/checkpoint/test_checkpoint.py::test_a_name_in_two_shards_is_read_where_the_index_says",),
        ci=True,
    ),
    Fault(
        "unread-files-not-named",
        "mi_kernels/checkpoint/shards.py",
        old="    found.notes.extend(_unread(folder, found))\n",
        new="",
        tests=("tests/checkpoint/test_shards.py::test_a_model_as_it_was_published",),
    ),
    Fault(
        "config-of-another-file-used",
        "mi_kernels/checkpoint/shards.py",
        old="(folder.files == [name] or name in (SINGLE, CONSOLIDATED))",
        new="True",
        tests=("tests/checkpoint/test_shards.py::test_a_config_that_may_be_of_another_file_is_not_used",),
    ),
    # The values of inputs.
    Fault(
        "dare-inputs-are-not-looked-at",
        "mi_kernels/merge/findings.py",
        old='("thresholds" in source.formula or "densities" in source.formula)',
        new='"thresholds" in source.formula',
        tests=("tests/merge/test_findings.py::test_every_method_sees_every_nan[dare_ties]",),
        ci=True,
    ),
    Fault(
        "ties-inputs-are-not-looked-at",
        "mi_kernels/merge/findings.py",
        old='("thresholds" in source.formula or "densities" in source.formula)',
        new='"densities" in source.formula',
        tests=("tests/merge/test_findings.py::test_an_infinity_without_weight_is_seen",),
    ),
    Fault(
        "overflow-counted-in-the-first-block-only",
        "mi_kernels/merge/findings.py",
        old="skipped = (at - first) * CODE_SIZES[code] if results else 0",
        new="skipped = 0",
        tests=("tests/merge/test_findings.py::test_overflow_far_into_a_tensor_is_counted",),
    ),
    # Methods and their parameters.
    Fault(
        "nuslerp-counts-from-the-wrong-end",
        "mi_kernels/methods/nuslerp.py",
        old="weight[1] / total",
        new="weight[0] / total",
        tests=("tests/project/test_examples_in_docstrings.py::test_examples_run[mi_kernels.methods.nuslerp]",),
        ci=True,
    ),
    Fault(
        "mergekit-ignores-a-parameter-whatever-its-value",
        "mi_kernels/recipe/mergekit.py",
        old="if any(v != only for v in _values(value)):",
        new="if False:",
        tests=("tests/methods/test_registry.py::test_mergekits_parameters_mean_ours",),
        ci=True,
    ),
    Fault(
        "a-parameter-of-one-model-used-where-mergekit-ignores-it",
        "mi_kernels/recipe/mergekit.py",
        old="elif model is not None and not (key in used and used[key].by_model):",
        new="elif model is not None and key not in used:",
        tests=(
            "tests/recipe/test_mergekit_ignored.py::test_parameters_without_an_effect_are_ignored_with_one_note[model-linear]",
        ),
    ),
    Fault(
        "tokens-that-others-replace-do-not-clash",
        "mi_kernels/checkpoint/differences.py",
        old="if token not in two and i in held:",
        new="if False:",
        tests=("tests/recipe/test_conditions.py::test_the_first_difference_is_named",),
    ),
    Fault(
        "auto-takes-one-of-several-templates",
        "mi_kernels/recipe/conditions.py",
        old="if best == [copied]:",
        new="if copied in best:",
        tests=("tests/recipe/test_conditions.py::test_auto_is_the_most_frequent_template",),
        ci=True,
    ),
    Fault(
        "the-methods-own-default-where-mergekit-has-none",
        "mi_kernels/recipe/mergekit.py",
        old="{**method.defaults, **spelling.defaults}",
        new="{**spelling.defaults, **method.defaults}",
        tests=("tests/recipe/test_mergekit.py::test_a_weight_has_no_default",),
    ),
    Fault(
        "combine-writes-over-an-input",
        "mi_kernels/ops/combining.py",
        old="and other != (begin, size):",
        new="and other[0] > begin:",
        tests=("tests/ops/test_combine.py::test_an_output_that_overlaps_without_being_it",),
    ),
    # Downloads.
    Fault(
        "of-two-models-in-a-repository-one-is-taken",
        "mi_kernels/checkpoint/shards.py",
        old="    if single in files and single not in named and not missing:\n",
        new="    if False:\n",
        tests=("tests/checkpoint/test_needed_files.py",),
        ci=True,
    ),
    Fault(
        "copies-inside-a-module-are-downloaded",
        "mi_kernels/checkpoint/needed_files.py",
        old="copies(n, folder) is None and (belongs(n, folder)",
        new="(belongs(n, folder)",
        tests=("tests/checkpoint/test_needed_files.py",),
    ),
    Fault(
        "later-files-of-another-commit",
        "mi_kernels/checkpoint/hub.py",
        old="snapshot_download(self.id, revision=self.commit, allow",
        new="snapshot_download(self.id, revision=None, allow",
        tests=("tests/checkpoint/test_hub.py::test_all_files_are_of_one_commit",),
    ),
    Fault(
        "weights-in-the-cache-count-as-download",
        "mi_kernels/checkpoint/hub.py",
        old="        if os.path.exists(blob):\n            return 0\n",
        new="",
        tests=("tests/checkpoint/test_hub.py::test_the_size_is_said_before_the_download",),
    ),
    Fault(
        "names-of-files-are-patterns",
        "mi_kernels/checkpoint/hub.py",
        old="exactly = [glob.escape(name) for name in names]",
        new="exactly = names",
        tests=("tests/checkpoint/test_hub.py::test_only_the_files_that_a_model_needs_are_downloaded",),
    ),
    # Files that change.
    Fault(
        "header-stamped-after-reading",
        "mi_kernels/checkpoint/header.py",
        old="return Header(metadata, tensors, stamp, _digest(text))",
        new="return Header(metadata, tensors, _stamp_of_regular_file(path), _digest(text))",
        tests=("tests/checkpoint/test_guard.py::test_an_input_that_is_written_while_its_header_is_read",),
        ci=True,
    ),
    Fault(
        "adapter-not-among-what-may-change",
        "mi_kernels/checkpoint/record.py",
        old="        check_unchanged(self.stamps)\n",
        new="        check_unchanged({path: self.stamps[path] for path in self.shards})\n",
        tests=("tests/checkpoint/test_lora.py::test_an_adapter_that_is_written_while_it_is_merged",),
    ),
    Fault(
        "damage-told-only-once",
        "mi_kernels/checkpoint/inputs.py",
        old="""\
            for file in (file for maps in self._maps for file in maps):
                file.check()
            self._faults = faults
""",
        new="""\
            self._faults = faults
            for file in (file for maps in self._maps for file in maps):
                file.check()
""",
        tests=("tests/checkpoint/test_guard.py::test_every_check_reports_damage",),
        ci=True,
    ),
    Fault(
        "statistics-of-zeros",
        "mi_kernels/merge/combined.py",
        old="                    inputs.check()\n",
        new="                    pass\n",
        tests=("tests/checkpoint/test_guard.py::test_a_shard_that_shrinks",),
    ),
    Fault(
        "scales-may-be-cut-off",
        "mi_kernels/checkpoint/inputs.py",
        old="        yield tensor.scales, 0, tensor.scales.elements\n",
        new="",
        tests=("tests/checkpoint/test_fp8.py::test_lengths_and_read_ahead_take_in_the_scales",),
    ),
    Fault(
        "map-stays-while-an-error-is-remembered",
        "mi_kernels/checkpoint/mapped.py",
        old="            self.data.release()  # now:",
        new="            pass  # now:",
        tests=("tests/checkpoint/test_guard.py::test_a_closed_file_is_unmapped_whoever_refers_to_it",),
        ci=True,
    ),
    # Computing what inputs are made of.
    Fault(
        "scratch-used-again-before-it-is-read",
        "mi_kernels/merge/spans.py",
        old="                self.flush(len(slots))\n",
        new="                pass\n",
        tests=("tests/checkpoint/test_fp8.py::test_blocks_of_large_tensors_meet",),
    ),
    # Models side by side.
    # Live models.
    Fault(
        "live-files-not-checked-before-a-change",
        "mi_kernels/live/knob.py",
        old="            self._sides.check()\n",
        new="",
        tests=("tests/live/test_live.py::test_a_file_written_before_a_change_is_an_error_and_the_model_still_works",),
    ),
    Fault(
        "live-files-not-checked-after-a-change",
        "mi_kernels/live/sides.py",
        old="                raise\n        self.check()\n",
        new="                raise\n",
        tests=("tests/live/test_live.py::test_a_file_that_is_written_during_a_change_is_refused",),
    ),
    Fault(
        "side-not-checked-after-it-is-read",
        "mi_kernels/live/sides.py",
        old="    model.check_unchanged()\n    return found\n",
        new="    return found\n",
        tests=("tests/live/test_live.py::test_a_file_that_is_written_while_it_is_attached_is_refused",),
    ),
    Fault(
        "whole-stages-only",
        "mi_kernels/live/sides.py",
        old="for first in range(0, live.numel(), step):",
        new="for first in range(0, live.numel() - step + 1, step):",
        tests=("tests/live/test_live.py::test_models_in_host_memory_are_copied_in_stages",),
    ),
    Fault(
        "detached-knob-keeps-its-files",
        "mi_kernels/live/knob.py",
        old="                self._sides.close()\n",
        new="",
        tests=("tests/live/test_live.py::test_a_detached_knob_keeps_no_file_open",),
    ),
]
