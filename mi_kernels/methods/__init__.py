"""The merge methods, one module each: what a method computes, its parameters, and how mergekit spells it.

A module here that holds a `METHOD` is a merge method: `registry` finds it, and recipes, mergekit's configurations,
`mi_kernels.combine`, error messages and tests follow from what it declares. docs/adding.md shows how to add one.

The formulas that the methods feed are in csrc/combine.h: float32, one rounding an operation, the result rounded once
to the dtype of the output. Parameters are computed in float64 and rounded to float32 once.
"""
