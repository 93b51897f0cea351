"""Faults in what a merge writes, resumes and publishes."""

from __future__ import annotations

from . import Fault

FAULTS = [
    # Resuming: what a killed merge left, and what of it counts.
    Fault(
        "finished-not-cleared",
        "mi_kernels/merge/resume.py",
        old="            self._moved = False\n            self.finished.clear()\n",
        new="            self._moved = False\n",
        tests=("tests/merge/test_resume.py::test_a_model_that_is_changed_after_the_kill_is_merged_again",),
        ci=True,
    ),
    Fault(
        "adopted-with-other-small-files",
        "mi_kernels/merge/resume.py",
        old="self._moved = all(_holds(os.path.join(out, name), content) for name, content in files.items())",
        new="self._moved = all(os.path.exists(os.path.join(out, name)) for name in files)",
        tests=("tests/merge/test_resume.py::test_a_model_that_is_changed_after_the_kill_is_merged_again",),
    ),
    Fault(
        "finished-by-size-alone",
        "mi_kernels/merge/resume.py",
        old="for i, now in zip(whole, measured) if now.crc == sums[i].crc}",
        new="for i, now in zip(whole, measured)}",
        tests=("tests/merge/test_resume.py::test_what_is_no_longer_right_is_done_again",),
    ),
    Fault(
        "finished-through-a-link",
        "mi_kernels/merge/resume.py",
        old="        status = os.lstat(path)\n",
        new="        status = os.stat(path)\n",
        tests=("tests/merge/test_resume.py::test_what_is_no_longer_right_is_done_again",),
    ),
    Fault(
        "remains-not-counted-as-space",
        "mi_kernels/merge/resume.py",
        old="sum(map(len, small.values())) - max(0, remains))",
        new="sum(map(len, small.values())))",
        tests=("tests/merge/test_resume.py::test_a_full_disk_has_room_for_what_is_there",),
    ),
    Fault(
        "finished-shards-counted-as-space",
        "mi_kernels/merge/resume.py",
        old="self.folder.used_space() - sum(sums.size for sums in self.finished.values())",
        new="self.folder.used_space()",
        tests=("tests/merge/test_resume.py::test_a_full_disk_has_room_for_what_is_there",),
    ),
    Fault(
        "staged-files-not-counted-as-space",
        "mi_kernels/output/folder.py",
        old="for at, _, names in os.walk(self.work) for name in names)",
        new="for at, _, names in [*os.walk(self.work)][:1] for name in names)",
        tests=("tests/output/test_folder.py::test_the_work_folder_of_a_killed_process_needs_space",),
    ),
    Fault(
        "taken-over-before-the-space-is-checked",
        "mi_kernels/merge/job.py",
        old="            work.folder.check_target()\n",
        new="            work.folder.check_target()\n            work.begin()\n",
        tests=("tests/merge/test_resume.py::test_a_full_disk_has_room_for_what_is_there",),
    ),
    Fault(
        "output-not-checked-before-resuming",
        "mi_kernels/merge/job.py",
        old="            work.folder.check_target()\n",
        new="",
        tests=("tests/merge/test_resume.py::test_an_output_that_came_into_being_is_refused_and_loses_nothing",),
    ),
    Fault(
        "refused-where-nothing-is-lost",
        "mi_kernels/merge/resume.py",
        old="return State()  # nothing would be lost",
        new="pass",
        tests=("tests/merge/test_resume.py::test_another_request_is_not_refused_where_nothing_would_be_lost",),
    ),
    Fault(
        "resumed-over-changed-inputs",
        "mi_kernels/merge/resume.py",
        old='"inputs": [file for model in models for file in model.evidence()]',
        new='"inputs": []',
        tests=("tests/merge/test_resume.py::test_other_inputs_are_refused",),
    ),
    Fault(
        "restart-reads-the-journal",
        "mi_kernels/merge/resume.py",
        old="self._state = State() if restart else self._read(request)",
        new="self._state = self._read(request)",
        tests=("tests/merge/test_resume.py::test_another_request_is_refused",),
    ),
    # The journal.
    Fault(
        "journal-without-a-request",
        "mi_kernels/merge/journal.py",
        old='if entry is None or (state.request is None) != ("request" in entry):',
        new='if entry is None or (state.request is not None and "request" in entry):',
        tests=("tests/merge/test_resume.py::test_without_a_journal_it_starts_clean",),
    ),
    Fault(
        "journal-line-not-synced",
        "mi_kernels/merge/journal.py",
        old="                    os.fsync(fd)\n",
        new="",
        tests=("tests/merge/test_journal.py::test_a_line_is_synced_and_so_are_the_names_it_relies_on",),
        ci=True,
    ),
    Fault(
        "shard-name-not-synced",
        "mi_kernels/merge/journal.py",
        old="            sync_folder(self._staged)\n",
        new="",
        tests=("tests/merge/test_journal.py::test_a_line_is_synced_and_so_are_the_names_it_relies_on",),
    ),
    Fault(
        "journal-name-not-synced",
        "mi_kernels/merge/journal.py",
        old="            if new:\n                sync_folder(os.path.dirname(self._path))\n",
        new="",
        tests=("tests/merge/test_journal.py::test_a_line_is_synced_and_so_are_the_names_it_relies_on",),
    ),
    Fault(
        "journal-torn-end-not-cut",
        "mi_kernels/merge/journal.py",
        old="                    os.ftruncate(fd, self._length)\n",
        new="",
        tests=("tests/merge/test_journal.py::test_a_torn_end_is_cut_off",),
    ),
    Fault(
        "journal-line-half-written",
        "mi_kernels/merge/journal.py",
        old="                    while at < self._length + len(lines):\n                        at +=",
        new="                    if at < self._length + len(lines):\n                        at +=",
        tests=("tests/merge/test_journal.py::test_short_writes_go_on_where_they_stopped",),
    ),
    Fault(
        "journal-lines-over-one-another",
        "mi_kernels/merge/journal.py",
        old="        with self._lock:\n            new =",
        new="        if self._lock:\n            new =",
        tests=("tests/merge/test_journal.py::test_shards_that_are_finished_at_once_each_get_a_line",),
    ),
    Fault(
        "journal-line-of-a-wrong-checksum",
        "mi_kernels/merge/journal.py",
        old='    if line != b"%08x %s\\n" % (zlib.crc32(text), text):\n        return None\n',
        new="",
        tests=("tests/merge/test_journal.py::test_a_line_with_any_wrong_bit_is_dropped",),
    ),
    # Streaming, and what is written.
    Fault(
        "shard-journalled-before-it-is-closed",
        "mi_kernels/merge/stream.py",
        old="""        self._files.close(chunk.shard)
        if self._sink.on_shard is not None:
            for output in self._files.wanted[chunk.shard]:
                self._sink.on_shard(output, chunk.shard, self._sums[output].shard(chunk.shard))
""",
        new="""        if self._sink.on_shard is not None:
            for output in self._files.wanted[chunk.shard]:
                self._sink.on_shard(output, chunk.shard, self._sums[output].shard(chunk.shard))
        self._files.close(chunk.shard)
""",
        tests=("tests/merge/test_stream.py::test_a_shard_is_reported_after_it_is_closed_in_every_folder",),
        ci=True,
    ),
    Fault(
        "last-error-raised",
        "mi_kernels/merge/stream.py",
        old="self._failure = self._failure or error",
        new="self._failure = error",
        tests=("tests/merge/test_stream.py::test_the_first_of_several_errors_is_raised",),
        ci=True,
    ),
    Fault(
        "workers-continue-after-a-failure",
        "mi_kernels/merge/stream.py",
        old="return None if self._failure is not None else next(self._chunks, None)",
        new="return next(self._chunks, None)",
        tests=("tests/merge/test_stream.py::test_a_failing_write_ends_the_stream",),
    ),
    Fault(
        "failure-forgotten",
        "mi_kernels/merge/stream.py",
        old="        if self._failure is not None:\n            raise self._failure\n",
        new="",
        tests=("tests/merge/test_stream.py::test_a_failing_write_ends_the_stream",),
    ),
    Fault(
        "input-errors-written-as-zeros",
        "mi_kernels/merge/stream.py",
        old="                self._inputs.check()\n",
        new="",
        tests=("tests/checkpoint/test_guard.py::test_a_shard_that_shrinks",),
    ),
    Fault(
        "synced-before-it-is-cut",
        "mi_kernels/output/writer.py",
        old="                os.ftruncate(self._fd, self._size)\n                sync(self._fd)\n",
        new="                sync(self._fd)\n                os.ftruncate(self._fd, self._size)\n",
        tests=(
            "tests/merge/test_stream.py::test_closing_makes_durable",
            "tests/output/test_folder.py::test_everything_is_synced_before_it_is_published",
        ),
    ),
    Fault(
        "existing-shard-overwritten",
        "mi_kernels/output/writer.py",
        old="os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC",
        new="os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC",
        tests=("tests/merge/test_stream.py::test_an_existing_file_is_never_written",),
    ),
    # Publishing.
    Fault(
        "small-file-not-synced",
        "mi_kernels/output/folder.py",
        old="            file.flush()\n            os.fsync(fd)\n",
        new="            file.flush()\n",
        tests=("tests/output/test_folder.py::test_everything_is_synced_before_it_is_published",),
    ),
    Fault(
        "work-folder-name-not-synced",
        "mi_kernels/output/folder.py",
        old="        system.sync_folder(os.path.dirname(self.work))\n",
        new="",
        tests=("tests/output/test_folder.py::test_everything_is_synced_before_it_is_published",),
    ),
    Fault(
        "failed-exchange-not-undone",
        "mi_kernels/output/folder.py",
        old="    except BaseException:\n        os.rename(aside, other)\n        raise\n    with",
        new="    except BaseException:\n        raise\n    with",
        tests=("tests/output/test_folder.py::test_the_old_model_returns_at_once_when_the_second_rename_fails",),
        ci=True,
    ),
    Fault(
        "third-rename-of-an-exchange-must-work",
        "mi_kernels/output/folder.py",
        old="    with contextlib.suppress(OSError):  # leaving it at `aside` is fine\n        os.rename(aside, one)\n",
        new="    os.rename(aside, one)\n",
        tests=(
            "tests/hostile/faults/test_faults.py::test_each_rename_fails_once_where_two_folders_cannot_be_exchanged",
        ),
    ),
    Fault(
        "failed-exchange-reported-as-success",
        "mi_kernels/output/folder.py",
        old="        os.rename(aside, other)\n        raise\n",
        new="        os.rename(aside, other)\n        return\n",
        tests=(
            "tests/hostile/faults/test_faults.py::test_each_rename_fails_once_where_two_folders_cannot_be_exchanged",
        ),
    ),
    Fault(
        "replaced-without-looking-again",
        "mi_kernels/output/folder.py",
        old="            self.check_target()\n            _exchange(",
        new="            _exchange(",
        tests=("tests/output/test_folder.py::test_an_output_that_appears_during_the_merge",),
    ),
    Fault(
        "journal-of-an-adopted-output-dropped",
        "mi_kernels/output/folder.py",
        old="kept = self._found and (kind is not None or not self.published)",
        new="kept = self._found and not self.published",
        tests=("tests/merge/test_resume.py::test_a_sweep_that_fails_after_it_was_resumed_can_still_be_finished",),
    ),
    Fault(
        "lock-of-a-folder-that-is-gone",
        "mi_kernels/output/folder.py",
        old="current = os.path.samestat(os.fstat(lock), os.lstat(self.work))",
        new="current = True",
        tests=("tests/output/test_folder.py::test_a_work_folder_that_is_removed_while_it_is_locked",),
    ),
    Fault(
        "cluster-failure-drops-the-work",
        "mi_kernels/output/folder.py",
        old="kept = kept or os.path.exists(self.journal)",
        new="kept = kept or False",
        tests=("tests/merge/test_resume.py::test_shards_that_a_failing_cluster_finished_are_kept",),
    ),
    Fault(
        "neighbour-taken-for-a-part",
        "mi_kernels/output/folder.py",
        old='return inner.startswith(outer.rstrip("/") + "/")',
        new='return inner.startswith(outer.rstrip("/"))',
        tests=("tests/merge/test_merge_refusals.py::test_an_output_whose_name_starts_with_the_name_of_an_input",),
    ),
    Fault(
        "inputs-of-a-recipe-not-protected",
        "mi_kernels/merge/api.py",
        old="    folder.protect(path for m in models for path in m.paths())\n    alignment",
        new="    alignment",
        tests=("tests/merge/test_merge_refusals.py::test_outputs_of_a_recipe",),
    ),
    Fault(
        "published-one-by-one-when-interrupted",
        "mi_kernels/merge/job.py",
        old="with interrupts.held():  # all of them or none: a sweep appears whole or not at all",
        new="if outputs:  # all of them or none: a sweep appears whole or not at all",
        tests=("tests/output/test_folder.py::test_a_signal_while_outputs_are_published_waits",),
    ),
    Fault(
        "held-signal-lost",
        "mi_kernels/system/interrupts.py",
        old="            signal.raise_signal(pending[0])",
        new="            pass",
        tests=("tests/output/test_folder.py::test_a_signal_while_outputs_are_published_waits",),
    ),
    Fault(
        "published-outputs-not-named",
        "mi_kernels/merge/job.py",
        old="[folder.given for folder in folders if folder.published])",
        new="[])",
        tests=("tests/merge/test_resume.py::test_a_sweep_that_fails_after_it_was_resumed_can_still_be_finished",),
    ),
    Fault(
        "inputs-not-looked-at-again",
        "mi_kernels/merge/job.py",
        old="                for model in self.models:\n                    model.check_unchanged()\n",
        new="",
        tests=("tests/merge/test_resume.py::test_an_input_that_changes_while_it_is_read",),
    ),
    # The small files.
    Fault(
        "checksums-of-an-input-copied",
        "mi_kernels/output/copied_files.py",
        old="_OURS = (RECORD, CHECKSUMS)",
        new="_OURS = (RECORD,)",
        tests=("tests/verify/test_verify.py::test_a_merge_of_merges_has_checksums_of_its_own",),
    ),
    Fault(
        "other-licence-names-ignored",
        "mi_kernels/output/card.py",
        old='if all(s["license"] and s == stated[0] for s in stated):',
        new='if all(s["license"] and s["license"] == stated[0]["license"] for s in stated):',
        tests=("tests/output/test_card.py::test_copied_metadata",),
    ),
    Fault(
        "header-too-long-for-readers",
        "mi_kernels/output/layout.py",
        old="    if len(text) > MAX_HEADER:",
        new="    if len(text) > 2 * MAX_HEADER:",
        tests=("tests/output/test_layout.py::test_a_header_above_the_limit_is_rejected",),
    ),
    # Verifying.
    Fault(
        "last-bytes-not-compared",
        "mi_kernels/verify/second_writer.py",
        old=" and np.array_equal(x[whole:], y[whole:])",
        new="",
        tests=("tests/verify/test_recompute.py::test_the_last_bytes_of_a_shard_count",),
    ),
    Fault(
        "recomputed-from-changing-models",
        "mi_kernels/verify/recompute.py",
        old="    for model in job.models:\n        model.check_unchanged()\n",
        new="",
        tests=("tests/verify/test_recompute.py::test_a_model_that_changes_while_it_is_read_is_an_error",),
    ),
    Fault(
        "other-commit-not-noted",
        "mi_kernels/merge/record.py",
        old='recorded["revision"] != now["revision"]:',
        new="False:",
        tests=("tests/verify/test_recompute.py::test_another_commit_of_a_model_is_reported",),
    ),
    Fault(
        "joined-over-a-gap",
        "mi_kernels/checksums/accumulator.py",
        old="            if offset != position:",
        new="            if offset < position:",
        tests=("tests/checksums/test_checksums.py::test_missing_or_duplicate_bytes_are_rejected",),
    ),
    Fault(
        "small-file-written-in-place",
        "mi_kernels/system/atomic.py",
        old='    temporary = os.path.join(folder, f".{name}.{os.urandom(4).hex()}.part")\n',
        new="    temporary = os.fspath(path)\n",
        tests=(
            "tests/system/test_atomic.py::test_a_failure_leaves_the_previous_file_and_nothing_else",
            "tests/verify/test_verify.py::test_a_record_that_cannot_be_written_leaves_the_old_one",
        ),
    ),
    Fault(
        "small-file-renamed-before-its-sync",
        "mi_kernels/system/atomic.py",
        old="            os.fsync(file.fileno())\n",
        new="",
        tests=(
            "tests/system/test_atomic.py::"
            "test_the_content_reaches_the_disk_before_its_name_and_the_name_before_the_end",
        ),
    ),
    Fault(
        "small-file-whose-name-is-not-synced",
        "mi_kernels/system/atomic.py",
        old="    sync_folder(folder)\n",
        new="",
        tests=(
            "tests/system/test_atomic.py::"
            "test_the_content_reaches_the_disk_before_its_name_and_the_name_before_the_end",
        ),
    ),
]
