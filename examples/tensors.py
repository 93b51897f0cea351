"""Interpolates tensors without checkpoints: NumPy arrays here, and torch tensors in the same way.

python tensors.py
"""

import argparse

import numpy as np

import mi_kernels

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()

rng = np.random.default_rng(0)
a = [rng.standard_normal(shape, dtype=np.float32) for shape in [(64, 64), (64,), (256, 64)]]
b = [rng.standard_normal(x.shape, dtype=np.float32) for x in a]

one = mi_kernels.lerp(a[0], b[0], 0.8)  # a new array
mi_kernels.lerp(a[0], b[0], 0.8, out=a[0])  # in place
assert np.array_equal(one, a[0])

many = mi_kernels.multi_lerp(a, b, [0.2, 0.5, 0.8])  # one call for all pairs; on a GPU, one launch
print([x.shape for x in many])
