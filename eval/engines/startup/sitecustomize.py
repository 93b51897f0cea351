"""Hides packages that cannot be imported, in engine processes and in the processes that vLLM starts.

Python imports this module at startup, because `installed.environments` adds this folder to PYTHONPATH.
"""

from eval.engines.imports import hide_cuda_extras

hide_cuda_extras()
