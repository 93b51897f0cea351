"""The same configuration through mergekit 0.1.5 and through `merge_checkpoint`, on tiny checkpoints of Qwen3's shapes.

    MERGEKIT_ENV=/path/to/a/virtual/environment python -m tests.integrations.mergekit.compare

prints, for each configuration, the share of elements with equal bits and the largest difference in units of the last
place of bf16. mergekit computes in float32 (``dtype: float32``) and both write bf16.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mi_kernels import merge_checkpoint
from mi_kernels.methods.method import Method
from mi_kernels.methods.registry import METHODS
from mi_kernels.output.synthetic import qwen3_shapes, write_checkpoint

from ...support.models import Tensors, load

VARIABLE = "MERGEKIT_ENV"
LAYERS = 4
DENSITY = 0.2
_HEAD = "dtype: float32\nout_dtype: bfloat16\n"
_BASE = "merge_method: {method}\nbase_model: {base}\n" + _HEAD
_GRADIENTS = """
    weight:
      - {{filter: mlp, value: [0.2, 0.5, 0.8]}}
      - {{filter: self_attn, value: 0.7}}
      - value: [1, 0.5]
"""

CONFIGS = {
    "linear": "merge_method: linear\n" + _HEAD + """models:
- {{model: {a}, parameters: {{weight: 0.2}}}}
- {{model: {b}, parameters: {{weight: 0.8}}}}
""",
    "linear, 3 models": "merge_method: linear\n" + _HEAD + """models:
- {{model: {base}, parameters: {{weight: 1}}}}
- {{model: {a}, parameters: {{weight: 2}}}}
- {{model: {b}, parameters: {{weight: 0.5}}}}
""",
    "linear, base in the list": _BASE.replace("{method}", "linear") + """models:
- {{model: {base}, parameters: {{weight: 0.3}}}}
- {{model: {a}}}
parameters: {{weight: 0.7}}
""",
    "linear, gradients and filters": "merge_method: linear\n" + _HEAD + """models:
- model: {a}
  parameters:""" + _GRADIENTS + """- {{model: {b}, parameters: {{weight: 0.4}}}}
""",
    "linear, slices": "merge_method: linear\n" + _HEAD + """slices:
- sources: [{{model: {a}, layer_range: [0, 1]}}, {{model: {b}, layer_range: [0, 1]}}]
  parameters: {{weight: 0.5}}
- sources:
  - {{model: {a}, layer_range: [1, 4], parameters: {{weight: [0.1, 0.9]}}}}
  - {{model: {b}, layer_range: [1, 4]}}
parameters: {{weight: 0.3, normalize: true}}
""",
    "task_arithmetic": _BASE.replace("{method}", "task_arithmetic") + """models:
- {{model: {a}, parameters: {{weight: 1.0}}}}
- {{model: {b}, parameters: {{weight: 1.0}}}}
parameters: {{lambda: 0.7}}
""",
    "task_arithmetic, normalised": _BASE.replace("{method}", "task_arithmetic") + """models:
- {{model: {base}}}
- {{model: {a}, parameters: {{weight: 0.6}}}}
- {{model: {b}, parameters: {{weight: [0.1, 0.9]}}}}
parameters: {{normalize: true}}
""",
    "ties": _BASE.replace("{method}", "ties") + """models:
- {{model: {a}}}
- {{model: {b}}}
parameters: {{density: 0.2, weight: 1.0, lambda: 0.5}}
""",
    "ties, weighted": _BASE.replace("{method}", "ties") + """models:
- {{model: {a}, parameters: {{weight: 0.3}}}}
- {{model: {b}, parameters: {{weight: 0.6}}}}
parameters: {{density: 0.2, normalize: false, int8_mask: true}}
""",
    "slerp": _BASE.replace("{method}", "slerp") + """models:
- {{model: {base}}}
- {{model: {a}}}
parameters: {{t: 0.4}}
""",
    "slerp, gradients and filters": _BASE.replace("{method}", "slerp") + """slices:
- sources: [{{model: {a}, layer_range: [0, 4]}}, {{model: {base}, layer_range: [0, 4]}}]
parameters:
  t:
  - {{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}}
  - {{filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}}
  - value: 0.5
""",
    "slerp, unlike models": _BASE.replace("{method}", "slerp") + """models:
- {{model: {stranger}}}
parameters: {{t: 0.4}}
""",
    "dare_ties": _BASE.replace("{method}", "dare_ties") + """models:
- {{model: {a}, parameters: {{weight: 0.5}}}}
- {{model: {b}, parameters: {{weight: 0.5}}}}
parameters: {{density: 0.5}}
""",
    "model_stock": _BASE.replace("{method}", "model_stock") + """models:
- {{model: {a}}}
- {{model: {b}}}
""",
}  # fmt: skip
_VALUES = {"weight": ("0.3", "0.6"), "density": ("0.5", "0.5"), "t": "0.4", "lambda": "0.7", "normalize": "false"}


def _written(method: Method, with_base: bool) -> str:
    """A configuration of any method with two models, from what it declares."""
    assert method.mergekit is not None
    lines = [f"merge_method: {method.mergekit.name}", *(["base_model: {base}"] if with_base else []), _HEAD + "models:"]
    names = {p.mergekit: p.by_model for p in method.parameters if p.mergekit is not None}
    for k, model in enumerate("ab"):
        own = ", ".join(f"{name}: {_VALUES[name][k]}" for name, by_model in names.items() if by_model)
        lines.append(f"- {{{{model: {{{model}}}, parameters: {{{{{own}}}}}}}}}")
    shared = ", ".join(f"{name}: {_VALUES[name]}" for name, by_model in names.items() if not by_model)
    return "\n".join([*lines, f"parameters: {{{{{shared}}}}}", ""])


# mergekit's own methods: mi_lerp is that of our plug-in.
THEIRS = {name: method for name, method in METHODS.items() if method.mergekit is not None and name != "mi_lerp"}

# Those without a configuration above, with a base and without where both can be.
for _method in THEIRS.values():
    if not any(name.startswith(_method.name) for name in CONFIGS):
        for _base in {"none": [False], "required": [True], "optional": [False, True]}[_method.base]:
            CONFIGS[_method.name + (", task vectors" if _method.base == "optional" and _base else "")] = _written(
                _method, _base
            )
RANDOM = [name for name in CONFIGS if any(p.name == "seed" for p in METHODS[name.partition(",")[0]].parameters)]
EXACT = [name for name in CONFIGS if name not in RANDOM]


@dataclass(frozen=True)
class Difference:
    """Over all elements.

    Attributes:
        elements: how many were compared; equal: the share of them with equal bits.
        ulps: the largest difference in units of bf16's last place, among elements of at least 2^-12 of their tensor's
            largest.
        near_zero: the largest difference among the others, as a share of their tensor's largest element. They are what
            is left where terms cancel, and units of their own last place mean nothing.
        aside: how many were not compared: ties at a threshold.
    """

    elements: int
    equal: float
    ulps: int
    near_zero: float
    aside: int


def mergekit() -> Path | None:
    """The program, of the environment that MERGEKIT_ENV names."""
    root = os.environ.get(VARIABLE)
    return Path(root) / "bin" / "mergekit-yaml" if root else None


def make_models(root: Path) -> dict[str, Path]:
    """base; a and b near it, as fine-tuned models are; and a stranger with values of its own."""
    shapes = qwen3_shapes(hidden=64, layers=LAYERS, ffn=96, heads=4, kv_heads=2, head_dim=16, vocab=256, tied=False)
    models = {name: root / name for name in ("base", "a", "b", "stranger")}
    write_checkpoint(models["base"], shapes, seed=1)
    write_checkpoint(models["stranger"], shapes, seed=2)
    tensors = load(models["base"])
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        models[name].mkdir()
        near = {n: t.float() + 0.003 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}
        save_file({n: t.bfloat16() for n, t in near.items()}, models[name] / "model.safetensors", {"format": "pt"})
        shutil.copy(models["base"] / "config.json", models[name])
    return models


def run_both(name: str, models: dict[str, Path], work: Path) -> tuple[Tensors, Tensors]:
    """(mergekit's output, ours) of one configuration; both read the same file."""
    program = mergekit()
    assert program is not None
    work.mkdir()
    config = work / "config.yml"
    config.write_text(CONFIGS[name].format(**models))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(program), str(config), str(work / "theirs"), "--quiet"], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{name}: mergekit failed:\n{done.stderr[-3000:]}")
    merge_checkpoint(config, work / "ours", progress=False, threads=1)
    theirs: Tensors = {}
    for path in sorted((work / "theirs").glob("*.safetensors")):
        theirs.update(load_file(path))
    return theirs, load(work / "ours")


def at_threshold(models: dict[str, Path]) -> dict[str, torch.Tensor]:
    """Where an element's magnitude equals a threshold that more elements share than fit: mergekit's sort keeps some of
    them, in no order that is promised, and we keep all."""
    base, found = load(models["base"]), {}
    for name, t in base.items():
        found[name] = torch.zeros(t.shape, dtype=torch.bool)
    for model in "ab":
        for name, t in load(models[model]).items():
            size = (t.float() - base[name].float()).abs()
            k = max(1, int(DENSITY * size.numel()))
            threshold = size.flatten().sort(descending=True).values[k - 1]
            if (size >= threshold).sum() > k:
                found[name] |= size == threshold
    return found


def difference(theirs: Tensors, ours: Tensors, aside: dict[str, torch.Tensor] | None = None) -> Difference:
    assert sorted(theirs) == sorted(ours)
    elements = equal = ulps = set_aside = 0
    near_zero = 0.0
    for name, x in theirs.items():
        y = ours[name]
        assert x.dtype == y.dtype == torch.bfloat16, name
        kept = ~aside[name] if aside is not None else torch.ones(x.shape, dtype=torch.bool)
        set_aside += int((~kept).sum())
        x, y = x[kept], y[kept]
        apart = (_ordered(x) - _ordered(y)).abs()
        elements, equal = elements + x.numel(), equal + int((apart == 0).sum())
        sizes = torch.maximum(x.float().abs(), y.float().abs())
        large = sizes >= sizes.max() * 2.0**-12
        ulps = max(ulps, int(apart[large].max()))
        relative = (x.float() - y.float()).abs() / sizes.max()
        near_zero = max(near_zero, float(relative.masked_fill(large, 0).max()))
    return Difference(elements, equal / elements, ulps, near_zero, set_aside)


def _ordered(x: torch.Tensor) -> torch.Tensor:
    """bf16 as integers in the order of the numbers: neighbours differ by 1, and both zeros are 0."""
    bits = x.contiguous().view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def compare(name: str, models: dict[str, Path], work: Path) -> Difference:
    theirs, ours = run_both(name, models, work)
    return difference(
        theirs, ours, at_threshold(models) if METHODS[name.partition(",")[0]].reads == "thresholds" else None
    )


def main() -> int:
    if mergekit() is None:
        print(f"set {VARIABLE} to a virtual environment with mergekit 0.1.5", file=sys.stderr)
        return 2
    print(
        "| configuration | elements | same bits | ULP | near zero | set aside |\n| --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder))
        for i, name in enumerate(EXACT):
            d = compare(name, models, Path(folder) / f"work{i}")
            share = np.floor(d.equal * 1e5) / 1e3  # never rounded up to 100 %
            near = f"2^{math.log2(d.near_zero):.1f}" if d.near_zero else "0"
            print(f"| {name} | {d.elements:,} | {share:.3f} % | {d.ulps} | {near} | {d.aside:,} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
