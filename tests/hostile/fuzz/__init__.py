"""Coverage-guided fuzzing of whatever reads what strangers write.

    python -m pip install -e '.[fuzz]'
    python -m tests.hostile.fuzz header --seconds 300         # or index, json, recipe, mergekit, adapter, fp8, masks

A target takes any bytes, and fails where anything but MIKernelsError comes out, or where what was accepted is not as it
must be. `targets` holds them, `seeds` what fuzzing starts from. tests/checkpoint/test_parsing.py uses them too, as
property tests that need no fuzzer.
"""
