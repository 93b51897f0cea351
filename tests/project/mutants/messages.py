"""Faults in what people are told: hints, forecasts, arguments, and what is refused."""

from __future__ import annotations

from . import Fault

HINTS = "tests/system/test_hints.py"
FILES = "tests/merge/test_recipe_files.py"
FORECAST = "tests/merge/test_forecast.py"
WRONG = "tests/project/test_wrong_arguments.py"

FAULTS = [
    Fault(
        "swapped-letters-are-two-errors",
        "mi_kernels/errors.py",
        old="cost = min(cost, before[j - 1] + _ERROR)",
        new="cost = min(cost, before[j - 1] + 2 * _ERROR)",
        tests=(f"{HINTS}::test_the_fewest_typing_errors_win",),
        ci=True,
    ),
    Fault(
        "no-names-of-other-tools",
        "mi_kernels/errors.py",
        old="ours = OTHER_NAMES.get(_plain(str(word)))",
        new="ours = None",
        tests=(f"{HINTS}::test_other_tools_names_of_lam",),
        ci=True,
    ),
    Fault(
        "errors-inside-a-function-become-errors-of-its-arguments",
        "mi_kernels/system/arguments.py",
        old="if error.__traceback__ is None or error.__traceback__.tb_next is not None:",
        new="if error.__traceback__ is None:",
        tests=(f"{WRONG}::test_errors_of_the_code_inside_stay_what_they_are",),
    ),
    Fault(
        "recipe-errors-without-the-file",
        "mi_kernels/recipe/load.py",
        old='raise ArgumentError(f"{where}: {problem}", remedy) from error',
        new="raise ArgumentError(problem, remedy) from error",
        tests=(f"{FILES}::test_every_error_names_the_file",),
    ),
    Fault(
        "forecast-that-forgets-the-second-reading",
        "mi_kernels/merge/job.py",
        old="return Forecast(2 * twice, found, files,",
        new="return Forecast(twice, found, files,",
        tests=(f"{FORECAST}::test_what_is_read_twice_is_said",),
    ),
    Fault(
        "free-space-without-a-reserve",
        "mi_kernels/merge/space.py",
        old="needed=sum(needed[i] for i in members) + SPARE,",
        new="needed=sum(needed[i] for i in members),",
        tests=(f"{FORECAST}::test_a_forecast_equals_the_report",),
    ),
]
