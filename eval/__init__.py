"""Evaluates merged models as the paper does: AIME'25, IFEval and GPQA-Diamond through vLLM. See README.md.

It reads models as folders and responses as files. Of mi_kernels it uses only what merges and what reads those folders.
"""
