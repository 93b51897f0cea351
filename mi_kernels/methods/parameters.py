"""The parameters that several methods share; `dataclasses.replace` gives a method its own default or range."""

from __future__ import annotations

from .method import Parameter

WEIGHT = Parameter("weight", 1.0, "how much a model counts", by_model=True, mergekit="weight")
NORMALIZE = Parameter("normalize", True, "divide by the sum of the weights", kind="truth", mergekit="normalize")
# mergekit keeps everything at 1 and above, and fails at 0. A density above 1 is most likely a percentage.
DENSITY = Parameter(
    "density",
    1.0,
    "the share of a task vector that is kept",
    by_model=True,
    least=0,
    most=1,
    open=True,
    mergekit="density",
)
SCALE = Parameter("scale", 1.0, "multiplies the merged task vector", mergekit="lambda", aliases=("alpha",))
LAM = Parameter("lam", None, "0 is the first model, 1 the second", least=0, most=1, mergekit="t")
SEED = Parameter("seed", 0, "of the random numbers", kind="whole", least=-(2**63), most=2**64 - 1)  # as torch's seeds
