"""Evaluates merged models as the paper does: AIME'25, IFEval and GPQA-Diamond through vLLM. See README.md.

It sees models as folders and responses as files, and imports nothing of the merging but what makes the folders.
"""
