"""Faults in eval: sampling, journals, metrics, stages and advice."""

from __future__ import annotations

from . import Fault

_DRIVER = "tests/eval/test_driver.py::"
_METRICS = "tests/eval/test_metrics.py::"
_ADVICE = "tests/eval/test_advice.py::"
_STAGES = "tests/eval/test_stages.py::"
_REPORT = "tests/eval/test_report.py::"

_ADVISED = [
    Fault(
        "dearest-of-equal-means",
        "eval/advice.py",
        old="key=lambda i: (table.mean[i], -table.tokens[i])",
        new="key=lambda i: (table.mean[i], table.tokens[i])",
        tests=(f"{_ADVICE}test_of_models_with_the_same_mean_the_cheapest_is_the_best",),
    ),
    Fault(
        "first-of-equal-means",
        "eval/advice.py",
        old="key=lambda i: (table.mean[i], -table.tokens[i])",
        new="key=lambda i: table.mean[i]",
        tests=(f"{_ADVICE}test_of_models_with_the_same_mean_the_cheapest_is_the_best",),
        ci=True,
    ),
    Fault(
        "equal-means-differ-in-their-last-bits",
        "eval/resample.py",
        old="    return np.round(means, 9)\n",
        new="    return means\n",
        tests=(f"{_ADVICE}test_of_models_with_the_same_mean_the_cheapest_is_the_best",),
    ),
    Fault(
        "worse-of-as-many-tokens",
        "eval/advice.py",
        old="key=lambda i: (table.tokens[i], -table.mean[i])",
        new="key=lambda i: table.tokens[i]",
        tests=(f"{_ADVICE}test_of_models_with_as_many_tokens_the_better_comes_first",),
    ),
    Fault(
        "front-holds-a-dearer-equal",
        "eval/advice.py",
        old="better = (mean[:, None, :] >= mean[:, :, None])",
        new="better = (mean[:, None, :] > mean[:, :, None])",
        tests=(f"{_ADVICE}test_of_models_with_the_same_mean_the_cheapest_is_the_best",),
    ),
    Fault(
        "budget-leaves-out-what-takes-as-much",
        "eval/advice.py",
        old="if table.tokens[i] <= budget]",
        new="if table.tokens[i] < budget]",
        tests=(f"{_ADVICE}test_a_budget_holds_what_takes_exactly_as_much",),
    ),
]

_SCORED = [
    Fault(
        "interval-of-equal-values",
        "eval/metrics.py",
        old="    if per_problem.min() == per_problem.max():",
        new="    if per_problem.size == 1:",
        tests=(f"{_METRICS}test_an_interval_of_equal_values_is_that_value",),
    ),
    Fault(
        "interval-beside-its-value",
        "eval/resample.py",
        old="float(min(low, value)), float(max(high, value))",
        new="float(low), float(high)",
        tests=("tests/eval/test_resample.py::test_an_interval_holds_its_value",),
        ci=True,
    ),
    Fault(
        "interval-of-ninety-per-cent",
        "eval/resample.py",
        old="np.percentile(resampled, [2.5, 97.5])",
        new="np.percentile(resampled, [5, 95])",
        tests=("tests/eval/test_resample.py::test_an_interval_leaves_out_two_and_a_half_per_cent_on_either_side",),
    ),
    Fault(
        "equal-resamples-count-as-above",
        "eval/metrics.py",
        old="np.mean(rounded(_resampled_means(differences)) > 0)",
        new="np.mean(_resampled_means(differences) > 0)",
        tests=(f"{_METRICS}test_a_resample_in_which_two_runs_are_equal_is_not_above",),
    ),
    Fault(
        "runs-paired-by-place",
        "eval/metrics.py",
        old="values([others[p.id] for p in a.problems], metric)",
        new="values(b.problems, metric)",
        tests=(f"{_METRICS}test_pairing_takes_out_what_problems_share",),
    ),
    Fault(
        "pass-at-k-with-replacement",
        "eval/metrics.py",
        old="(wrong - np.arange(k)).clip(min=0) / (problem.n - np.arange(k))",
        new="np.full(k, wrong / problem.n)",
        tests=(f"{_METRICS}test_pass_at_k_of_many_samples",),
        ci=True,
    ),
    Fault(
        "vote-of-all-responses",
        "eval/metrics.py",
        old="for answer in problem.answers[:k] if",
        new="for answer in problem.answers if",
        tests=(f"{_METRICS}test_votes",),
    ),
    Fault(
        "vote-tie-goes-to-the-last",
        "eval/metrics.py",
        old="Counter(votes).most_common(1)",
        new="Counter(reversed(votes)).most_common(1)",
        tests=(f"{_METRICS}test_votes",),
    ),
    Fault(
        "unread-answers-vote",
        "eval/metrics.py",
        old=" for answer in problem.answers[:k] if answer is not None]",
        new=" for answer in problem.answers[:k]]",
        tests=(f"{_METRICS}test_votes",),
    ),
    Fault(
        "median-for-token-n",
        "eval/metrics.py",
        old="np.mean(p.tokens) for p in problems",
        new="np.median(p.tokens) for p in problems",
        tests=(f"{_METRICS}test_tokens_are_a_mean_and_a_response_thinks_once",),
    ),
    Fault(
        "think-r-counts-every-end",
        "eval/metrics.py",
        old='sum("</think>" in response.text for',
        new='sum(response.text.count("</think>") for',
        tests=(f"{_METRICS}test_tokens_are_a_mean_and_a_response_thinks_once",),
    ),
    Fault(
        "ungraded-is-right-by-other-gradings",
        "eval/metrics.py",
        old="v.others.get(name, False)",
        new="v.others.get(name, True)",
        tests=(f"{_METRICS}test_a_response_that_was_not_graded_is_wrong_by_every_grading",),
    ),
    Fault(
        "samples-in-the-order-they-came",
        "eval/metrics.py",
        old="{key: sorted(group, key=lambda pair: pair[0].sample) for key, group in groups.items()}",
        new="groups",
        tests=(f"{_METRICS}test_scores",),
    ),
    Fault(
        "instruct-graded-without-its-text",
        "eval/grading.py",
        old='text if role == "instruct" else strip_reasoning(text)',
        new="strip_reasoning(text)",
        tests=("tests/eval/test_grading.py::test_reasoning_is_stripped",),
    ),
    Fault(
        "merges-graded-with-their-reasoning",
        "eval/grading.py",
        old='text if role == "instruct" else strip_reasoning(text)',
        new='strip_reasoning(text) if role == "thinking" else text',
        tests=("tests/eval/test_grading.py::test_reasoning_is_stripped",),
    ),
    Fault(
        "options-ordered-from-row-0",
        "eval/benchmarks/gpqa.py",
        old="ORDERS[number % 4]",
        new="ORDERS[(number - 1) % 4]",
        tests=("tests/eval/test_gpqa.py::test_order_of_options_and_prompt",),
    ),
    Fault(
        "options-ordered-the-other-way-round",
        "eval/benchmarks/gpqa.py",
        old='options["ABCD".index(letter)] for letter in order',
        new='options[order.index(letter)] for letter in "ABCD"',
        tests=("tests/eval/test_gpqa.py::test_order_of_options_and_prompt",),
    ),
    Fault(
        "token-n-counts-the-prompt",
        "eval/engines/openai_server.py",
        old="answer.usage.completion_tokens, str(",
        new="answer.usage.total_tokens, str(",
        tests=("tests/eval/test_openai_server.py::test_each_request_is_one_response_with_its_seed_and_sampling",),
    ),
    Fault(
        "summary-gives-cut-for-unparsed",
        "eval/summary.py",
        old="unparsed {100 * scores.unparsed:.1f}",
        new="unparsed {100 * scores.cut:.1f}",
        tests=("tests/eval/test_command_line.py::test_the_summary_gives_each_number_under_its_name",),
    ),
]

_SAMPLED = [
    Fault(
        "merges-sampled-as-instruct",
        "eval/roles.py",
        old='"merged": (0.6, 0.95)',
        new='"merged": (0.7, 0.8)',
        tests=("tests/eval/test_roles.py::test_sampling_is_the_papers",),
    ),
    Fault(
        "zero-is-no-choice",
        "eval/plan.py",
        old="if (value := getattr(choices, name)) is not None\n",
        new="if (value := getattr(choices, name))\n",
        tests=(f"{_DRIVER}test_zero_is_a_choice",),
    ),
    Fault(
        "every-problem-has-the-same-seeds",
        "eval/plan.py",
        old="self.setting.seed + i * n + sample",
        new="self.setting.seed + sample",
        tests=(f"{_DRIVER}test_a_run_asks_for_every_sample_with_its_own_seed_and_the_papers_sampling",),
    ),
    Fault(
        "seeds-depend-on-the-interruption",
        "eval/plan.py",
        old="self.setting.seed + i * n + sample",
        new="self.setting.seed + len(done) + i * n + sample",
        tests=(f"{_DRIVER}test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not",),
    ),
    Fault(
        "lam-0-is-no-lam",
        "eval/driver.py",
        old="lam = found.lam if subject.lam is None else subject.lam",
        new="lam = subject.lam or found.lam",
        tests=("tests/eval/test_command_line.py::test_a_sweep_merges_evaluates_and_goes_on",),
    ),
]

_RESUMED = [
    Fault(
        "run-json-not-read-again",
        "eval/driver.py",
        old="                joined = _joined(out, now)\n",
        new="                joined = now\n",
        tests=(f"{_DRIVER}test_a_benchmark_that_another_process_adds_meanwhile_is_kept",),
    ),
    Fault(
        "engine-started-meanwhile-not-compared",
        "eval/driver.py",
        old="                joined = _joined(out, now)\n",
        new="                joined = _joined(out, replace(now, engine={}))\n",
        tests=(f"{_DRIVER}test_an_engine_of_another_kind_that_starts_meanwhile_does_not_mix",),
        ci=True,
    ),
    Fault(
        "engine-of-an-older-run-json",
        "eval/driver.py",
        old="replace(joined, engine=now.engine) if missing else joined",
        new="replace(joined, engine=now.engine or joined.engine)",
        tests=(f"{_DRIVER}test_a_run_that_only_grades_leaves_the_engine_that_another_process_started_meanwhile",),
    ),
    Fault(
        "engine-of-the-first-start",
        "eval/driver.py",
        old="replace(joined, engine=now.engine) if missing else joined",
        new="replace(joined, engine=joined.engine or now.engine)",
        tests=(f"{_DRIVER}test_run_json_names_the_engine_that_generated_last",),
    ),
    Fault(
        "engine-of-another-kind-accepted",
        "eval/plan.py",
        old="    if run.engine and now.engine:\n",
        new="    if run.engine == now.engine != {}:\n",
        tests=(f"{_DRIVER}test_another_kind_of_engine_does_not_mix",),
    ),
    Fault(
        "run-json-written-without-its-lock",
        "eval/driver.py",
        old="            with changing_run(out):",
        new="            with ExitStack():",
        tests=(f"{_DRIVER}test_run_json_is_read_and_written_under_one_lock",),
    ),
    Fault(
        "run-json-read-before-its-lock",
        "eval/driver.py",
        old="            with changing_run(out):  # another process may have added to it since\n"
        "                joined = _joined(out, now)\n",
        new="            joined = _joined(out, now)\n            with changing_run(out):\n",
        tests=(f"{_DRIVER}test_run_json_is_read_and_written_under_one_lock",),
    ),
    Fault(
        "one-lock-for-all-benchmarks",
        "eval/journal.py",
        old='f".{benchmark}.lock"',
        new='".writing.lock"',
        tests=(f"{_DRIVER}test_two_processes_do_not_write_one_run",),
    ),
    Fault(
        "shared-lock",
        "eval/journal.py",
        old="fcntl.LOCK_EX | fcntl.LOCK_NB",
        new="fcntl.LOCK_SH | fcntl.LOCK_NB",
        tests=(f"{_DRIVER}test_two_processes_do_not_write_one_run",),
    ),
    Fault(
        "second-of-a-duplicate-counts",
        "eval/journal.py",
        old="        found.setdefault((response.problem, response.sample), response)\n",
        new="        found[response.problem, response.sample] = response\n",
        tests=(f"{_DRIVER}test_a_response_that_is_there_twice_counts_once_and_as_it_was_first",),
    ),
    Fault(
        "duplicate-counts-otherwise-when-read-again",
        "eval/journal.py",
        old="        self.responses.setdefault((response.problem, response.sample), response)\n",
        new="        self.responses[response.problem, response.sample] = response\n",
        tests=(f"{_DRIVER}test_a_response_that_comes_twice_counts_as_it_does_when_the_run_is_read_again",),
    ),
    Fault(
        "graded-otherwise-than-it-is-kept",
        "eval/journal.py",
        old="        response = Response(**json.loads(line))\n",
        new="",
        tests=(f"{_DRIVER}test_what_no_file_can_hold_is_graded_as_it_will_be_read",),
    ),
    Fault(
        "short-write-taken-for-whole",
        "eval/journal.py",
        old="        while line:  # a full disk may take a part, and raise on the next write\n"
        "            line = line[self._file.write(line) :]\n",
        new="        self._file.write(line)\n",
        tests=(f"{_DRIVER}test_a_disk_that_takes_a_part_gets_the_rest",),
    ),
    Fault(
        "journal-closed-without-sync",
        "eval/journal.py",
        old="    def close(self) -> None:\n        self._sync()\n",
        new="    def close(self) -> None:\n",
        tests=(f"{_DRIVER}test_responses_are_synced_every_second_and_at_the_end",),
    ),
    Fault(
        "cut-line-not-cut-off",
        "eval/journal.py",
        old="        _cut_partial_line(path)\n",
        new="",
        tests=(f"{_DRIVER}test_a_line_that_a_kill_cut_is_cut_off_and_made_again",),
    ),
    Fault(
        "line-without-its-end-is-read",
        "eval/files.py",
        old='for line in file if line.endswith(b"\\n")]',
        new='for line in file if line.rstrip().endswith(b"}")]',
        tests=(f"{_DRIVER}test_a_line_that_a_kill_cut_is_cut_off_and_made_again",),
    ),
    Fault(
        "json-written-in-place",
        "eval/files.py",
        old='temporary = f"{path}.part"\n',
        new="temporary = path\n",
        tests=(f"{_DRIVER}test_a_file_that_cannot_be_written_whole_leaves_the_one_before",),
    ),
    Fault(
        "digest-without-the-prompts",
        "eval/plan.py",
        old="[[p.id, p.prompt, p.reference] for p in problems]",
        new="[[p.id, p.reference] for p in problems]",
        tests=(f"{_DRIVER}test_changed_problems_do_not_mix",),
    ),
    Fault(
        "merged-again-in-the-same-folder",
        "eval/plan.py",
        old='"lam": run.lam, "merge": run.merge}',
        new='"lam": run.lam}',
        tests=(f"{_DRIVER}test_a_model_that_was_merged_again_in_the_same_folder_does_not_mix",),
    ),
    Fault(
        "another-model-accepted",
        "eval/plan.py",
        old='{"model": run.model, "role": run.role,',
        new='{"role": run.role,',
        tests=(f"{_DRIVER}test_another_model_does_not_mix",),
    ),
    Fault(
        "complete-without-its-responses",
        "eval/driver.py",
        old="if not scored or part.missing(read(out, benchmark.name)):",
        new="if not scored:",
        tests=(f"{_DRIVER}test_only_a_whole_run_with_the_same_settings_is_complete",),
    ),
]

_REPORTED = [
    Fault(
        "stage-2-begins-after-its-boundary",
        "eval/stages.py",
        old="if self.start and lam < self.start.value:",
        new="if self.start and lam <= self.start.value:",
        tests=(f"{_STAGES}test_a_boundary_belongs_to_the_stage_that_begins_there",),
    ),
    Fault(
        "stage-3-begins-after-its-boundary",
        "eval/stages.py",
        old="if self.end and lam >= self.end.value:",
        new="if self.end and lam > self.end.value:",
        tests=(f"{_STAGES}test_a_boundary_belongs_to_the_stage_that_begins_there",),
    ),
    Fault(
        "gap-after-the-lam-that-reaches-the-level",
        "eval/stages.py",
        old="np.flatnonzero(way >= level)",
        new="np.flatnonzero(way > level)",
        tests=(f"{_STAGES}test_a_lam_that_reaches_a_level_exactly_ends_the_gap_before_it",),
    ),
    Fault(
        "problems-of-the-first-run",
        "eval/resample.py",
        old="if all(p.id in other for other in others)]",
        new="if True]",
        tests=(f"{_STAGES}test_few_problems_and_problems_of_one_run_only_are_told",),
    ),
    Fault(
        "other-problems-compared",
        "eval/report/collect.py",
        old="(setting.problems, setting.samples, setting.digest, setting.sampling.max_tokens)",
        new='(setting.problems, setting.samples, "", setting.sampling.max_tokens)',
        tests=(f"{_REPORT}test_a_run_compares_where_nothing_of_its_setting_differs",),
    ),
    Fault(
        "other-limits-compared",
        "eval/report/collect.py",
        old="(setting.problems, setting.samples, setting.digest, setting.sampling.max_tokens)",
        new="(setting.problems, setting.samples, setting.digest, 0)",
        tests=(f"{_REPORT}test_a_run_compares_where_nothing_of_its_setting_differs",),
    ),
    Fault(
        "other-samples-compared",
        "eval/report/collect.py",
        old="(setting.problems, setting.samples, setting.digest, setting.sampling.max_tokens)",
        new="(setting.problems, 0, setting.digest, setting.sampling.max_tokens)",
        tests=(f"{_REPORT}test_a_run_compares_where_nothing_of_its_setting_differs",),
    ),
    Fault(
        "hotter-of-two-samplings-is-usual",
        "eval/report/collect.py",
        old="(found[d], d[:2] == paper, d)",
        new="(found[d], d)",
        tests=(f"{_REPORT}test_of_two_samplings_as_frequent_the_papers_is_the_usual_one",),
    ),
]

FAULTS = [*_ADVISED, *_SCORED, *_SAMPLED, *_RESUMED, *_REPORTED]
