"""Coverage-guided fuzzing of all code that reads untrusted input.

    python -m pip install -e '.[fuzz]'
    python -m tests.hostile.fuzz header --seconds 300         # or index, json, recipe, mergekit, adapter, fp8, masks

A target takes any bytes. It fails if an exception other than MIKernelsError is raised, or if accepted input gives a
wrong result. `targets` contains the targets and `seeds` the initial inputs. tests/checkpoint/test_parsing.py also uses
them in property tests, without a fuzzer.
"""
