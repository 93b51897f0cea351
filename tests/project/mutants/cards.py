"""Faults in what people read afterwards: model cards, inspect, compare, and plots."""

from __future__ import annotations

from . import Fault

CARD = "tests/output/test_card_recipe.py"
PLAIN = "tests/recipe/test_plain_recipe.py"

FAULTS = [
    Fault(
        "card-without-its-digest",
        "mi_kernels/output/card.py",
        old="name: content.replace(_DIGEST, digest.encode(), 1) if name == NAME else content",
        new="name: content",
        tests=(f"{CARD}::test_the_digest_is_of_the_weights",),
        ci=True,
    ),
    Fault(
        "digest-follows-the-shards",
        "mi_kernels/checksums/record.py",
        old='for name in sorted(sums, key=lambda name: name.encode(errors="surrogatepass")):',
        new="for name in sums:",
        tests=(f"{CARD}::test_the_digest_is_of_the_weights",),
    ),
    Fault(
        "card-without-max-shard-size",
        "mi_kernels/output/card.py",
        old='size = "" if facts.max_shard_size is None else f" --max-shard-size {facts.max_shard_size}B"',
        new='size = ""',
        tests=(f"{CARD}::test_the_recipe_of_an_interpolation_makes_the_same_bytes",),
    ),
    Fault(
        "base-models-that-the-hub-rejects",
        "mi_kernels/output/card.py",
        old="bases = [i for i in dict.fromkeys(flat) if _can_be_id(i)]",
        new="bases = list(dict.fromkeys(flat))",
        tests=(f"{CARD}::test_base_models_are_ids_of_the_hub",),
    ),
    Fault(
        "recipe-without-the-defaults-of-mergekit",
        "mi_kernels/recipe/plain_recipe.py",
        old='return filled if last else [*filled, {"value": default}]',
        new="return filled",
        tests=(f"{PLAIN}::test_the_defaults_of_mergekit_become_values",),
        ci=True,
    ),
    Fault(
        "recipe-without-its-slices",
        "mi_kernels/recipe/plain_recipe.py",
        old="whole = len(slices) == 1 and not slices[0].settings",
        new="whole = True",
        tests=(f"{PLAIN}::test_slices",),
    ),
    Fault(
        "recipe-that-does-not-extrapolate",
        "mi_kernels/merge/record.py",
        old='extrapolate = {"extrapolate": True} if outside else {}',
        new="extrapolate: dict[str, bool] = {}",
        tests=(f"{CARD}::test_the_recipe_of_an_interpolation_makes_the_same_bytes",),
    ),
    Fault(
        "summary-without-masks",
        "mi_kernels/merge/record.py",
        old="    shown += _masks(content)\n",
        new="",
        tests=("tests/cli/test_inspect_env_demo.py::test_inspect_shows_the_masks_and_parameters_of_a_recipe",),
    ),
    Fault(
        "fp8-shown-as-bf16",
        "mi_kernels/cli/inspect.py",
        old="dtypes[stored_dtype(tensor)] += 1",
        new="dtypes[tensor.dtype] += 1",
        tests=("tests/cli/test_inspect_env_demo.py::test_inspect_shows_the_dtypes_of_the_files",),
    ),
    Fault(
        "adapter-lost-from-the-name",
        "mi_kernels/merge/record.py",
        old='parts = [identity, identity.get("adapter")] if isinstance(identity, dict) else []',
        new="parts = [identity] if isinstance(identity, dict) else []",
        tests=("tests/cli/test_inspect_env_demo.py::test_inspect_names_adapters",),
    ),
    Fault(
        "title-of-the-heat-map-cut",
        "mi_kernels/compare/plots.py",
        old="    fit_width(title, _TITLE * figure.bbox.width, partial(_title, found))\n",
        new="    title.set_text(_title(found, 160))\n",
        tests=("tests/cli/test_compare.py::test_texts_of_the_heat_map_are_inside_and_apart",),
    ),
    Fault(
        "medians-under-their-error-bars",
        "bench/report/plots.py",
        old="above = max(end, min(middle, _TOP))",
        new="above = min(middle, _TOP)",
        tests=("tests/bench/test_bench_report.py::test_texts_of_the_plots_are_inside_and_apart",),
    ),
    Fault(
        "names-of-points-over-each-other",
        "eval/report/labels.py",
        old="        taken.append(box)\n",
        new="",
        tests=("tests/eval/report/test_report.py::test_texts_of_the_plots_are_inside_and_apart",),
    ),
    Fault(
        "hatches-over-the-values",
        "eval/report/plots.py",
        old='"edgecolor": "0.8", "zorder": -1}',
        new='"edgecolor": "0.8"}',
        tests=("tests/eval/report/test_report.py::test_missing_cells_are_hatched_and_others_are_not",),
    ),
]
