"""Python imports this at the start of every engine process and of the processes that vLLM starts from it, because
`installed.environments` puts this folder on PYTHONPATH: each of them must do without the packages that cannot load."""

from eval.engines.imports import hide_cuda_extras

hide_cuda_extras()
