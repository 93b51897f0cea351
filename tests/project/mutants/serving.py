"""Faults in serving: whose turn it is, and what a request chooses."""

from __future__ import annotations

from . import Fault

_TURNS = "tests/integrations/vllm/test_turns.py::"
_CHOICES = "tests/integrations/vllm/test_efforts.py::"
_SOURCE = "mi_kernels/integrations/vllm/turns.py"

FAULTS = [
    Fault(
        "nobody-is-overdue",
        _SOURCE,
        old="group[0].since + self._max_wait <= now",
        new="False and group[0].since + self._max_wait <= now",
        tests=(f"{_TURNS}test_nobody_starves",),
        ci=True,
    ),
    Fault(
        "begins-while-the-weights-change",
        _SOURCE,
        old="if wanted == self._current and self._changing is None and not self._overdue(wanted):",
        new="if wanted == self._current and not self._overdue(wanted):",
        tests=(f"{_TURNS}test_any_load_is_served_whole_and_never_mixed",),
    ),
    Fault(
        "changes-while-requests-run",
        _SOURCE,
        old="if self._running or self._changing is not None or not self._groups:",
        new="if self._changing is not None or not self._groups:",
        tests=(f"{_TURNS}test_a_change_waits_for_running_requests_and_serves_its_whole_group",),
    ),
    Fault(
        "a-client-that-left-keeps-its-turn",
        _SOURCE,
        old="            self._running -= 1  # it began in the moment in which the client went\n",
        new="            pass\n",
        tests=(f"{_TURNS}test_a_request_that_leaves_in_its_moment_frees_the_turn",),
    ),
    Fault(
        "a-half-changed-engine-goes-on",
        _SOURCE,
        old="            self._broken = failure\n",
        new="            pass\n",
        tests=(f"{_TURNS}test_a_failed_change_is_the_end_for_all",),
    ),
    Fault(
        "two-choices-and-the-last-wins",
        "mi_kernels/integrations/vllm/efforts.py",
        old="if chosen.wanted != different.wanted:",
        new="if False and chosen.wanted != different.wanted:",
        tests=(f"{_CHOICES}test_refused_choices",),
    ),
    Fault(
        "a-number-drops-the-masks",
        "mi_kernels/integrations/vllm/efforts.py",
        old="return Chosen(replace(self.default, lam=lam))",
        new="return Chosen(Recipe(lam))",
        tests=(f"{_CHOICES}test_a_number_keeps_the_masks_of_the_server",),
    ),
]
