"""Faults in how two models are matched: names, extra tensors, heads, vocabularies, and what config.json says then."""

from __future__ import annotations

from . import Fault

_SPELLED = "tests/merge/test_odd_names.py"
_EXTRAS = "tests/merge/test_odd_extras.py"
_HEADS = "tests/merge/test_odd_heads.py"
_ADAPTERS = "tests/checkpoint/test_odd_adapters.py"
_NAMES = "tests/checkpoint/test_spelling.py"

FAULTS = (
    Fault(
        "tied-head-of-any-shape",
        "mi_kernels/checkpoint/ties.py",
        old='    "embed_tokens",\n',
        new='    "embed_positions",\n    "embed_tokens",\n',
        tests=("tests/output/test_model_folder.py::test_a_head_tied_beside_an_embedding_of_positions",),
        ci=True,
    ),
    Fault(
        "ambiguous-names-are-matched",
        "mi_kernels/checkpoint/spelling.py",
        old="            twice.add(key)\n",
        new="            pass\n",
        tests=(f"{_NAMES}::test_ambiguous_names_are_left_alone",),
        ci=True,
    ),
    Fault(
        "wrapper-only-at-the-start",
        "mi_kernels/checkpoint/spelling.py",
        old='    return ".".join(word for word in name.split(".") if word not in _WRAPPERS) or name\n',
        new='    return name.removeprefix("_orig_mod.").removeprefix("module.")\n',
        tests=(f"{_SPELLED}::test_wrappers",),
    ),
    Fault(
        "two-wrapped-names-become-one",
        "mi_kernels/checkpoint/open.py",
        old="        if new in cleaned:\n",
        new="        if False:\n",
        tests=(f"{_SPELLED}::test_a_wrapped_copy_beside_the_plain_tensor_is_refused",),
    ),
    Fault(
        "extras-copied-from-the-wrong-model",
        "mi_kernels/merge/spans.py",
        old="                operand = operands[source.kept]\n",
        new="                operand = operands[min(operands)]\n",
        tests=(f"{_EXTRAS}::test_other_methods_keep_what_one_model_has",),
        harmless="A source that is kept reads one model only, so there is one operand.",
    ),
    Fault(
        "extras-read-from-the-first-model",
        "mi_kernels/merge/plan.py",
        old="            return [self.kept]\n",
        new="            return [0]\n",
        tests=(f"{_EXTRAS}::test_other_methods_keep_what_one_model_has",),
    ),
    Fault(
        "half-a-tower-is-no-error",
        "mi_kernels/checkpoint/alignment.py",
        old="            if kind is not None and not incomplete:\n",
        new="            if kind is not None:\n",
        tests=(f"{_EXTRAS}::test_a_missing_weight_of_the_model_stays_an_error",),
    ),
    Fault(
        "any-extra-is-for-prediction",
        "mi_kernels/checkpoint/auxiliary.py",
        old="    return PREDICTION if classify(name).layer in predicting else None\n",
        new="    return PREDICTION\n",
        tests=(f"{_NAMES}::test_kinds",),
        ci=True,
    ),
    Fault(
        "layers-behind-the-last-are-decoder-layers",
        "mi_kernels/checkpoint/auxiliary.py",
        old="(depth is not None and layer >= depth)",
        new="(depth is not None and layer > depth)",
        tests=(f"{_EXTRAS}::test_layers_for_multi_token_prediction_are_kept",),
    ),
    Fault(
        "buffers-of-two-shapes-are-an-error",
        "mi_kernels/checkpoint/alignment.py",
        old="            if self._is_differing_buffer(row):\n",
        new="            if False:\n",
        tests=(f"{_EXTRAS}::test_buffers_that_only_one_side_has_are_left_out",),
    ),
    Fault(
        "config-of-the-text-decoder",
        "mi_kernels/merge/job.py",
        old="        if self._config_of_lead:\n            lead =",
        new="        if False:\n            lead =",
        tests=(f"{_EXTRAS}::test_a_text_decoder_against_its_multimodal_release",),
    ),
    Fault(
        "gate-and-up-change-places",
        "mi_kernels/checkpoint/experts.py",
        old='"gate_up_proj": ("gate_proj", "up_proj")',
        new='"gate_up_proj": ("up_proj", "gate_proj")',
        tests=(f"{_SPELLED}::test_fused_experts",),
    ),
    Fault(
        "fused-experts-of-any-shape",
        "mi_kernels/checkpoint/experts.py",
        old="any(wanted[n].shape != shape for n in names)",
        new="False",
        tests=(f"{_SPELLED}::test_transposed_experts_are_not_taken_for_fused_ones",),
        harmless="Parts of another shape are rejected later, when the shapes of all tensors are compared.",
    ),
    Fault(
        "a-block-across-two-experts",
        "mi_kernels/checkpoint/virtual.py",
        old="low, high = max(first, number * size), min(end, (number + 1) * size)",
        new="low, high = number * size, min(end, (number + 1) * size)",
        tests=(f"{_SPELLED}::test_fused_experts",),
    ),
    Fault(
        "a-stored-head-is-the-embedding-if-config-says-so",
        "mi_kernels/checkpoint/alignment.py",
        old="return model.tied and embedding is not None and same_values(model, held[head], held[embedding])",
        new="return model.tied and embedding is not None",
        tests=(f"{_HEADS}::test_heads",),
    ),
    Fault(
        "a-mask-does-not-untie",
        "mi_kernels/merge/sources.py",
        old="    return not (tie.same and alike and head.formula == embedding.formula)\n",
        new="    return not tie.same\n",
        tests=(f"{_HEADS}::test_a_mask_over_the_embedding_unties_a_stored_copy",),
    ),
    Fault(
        "an-adapter-on-the-head-changes-the-embedding",
        "mi_kernels/checkpoint/lora.py",
        old="            return found or head\n",
        new="            return found or self.embedding\n",
        tests=(f"{_ADAPTERS}::test_a_tied_base",),
    ),
    Fault(
        "a-head-made-equal-stays-untied",
        "mi_kernels/checkpoint/lora.py",
        old="        del model.tensors[head]\n",
        new="        pass\n",
        tests=(f"{_ADAPTERS}::test_a_tied_base",),
    ),
    Fault(
        "weights-beside-an-adapter-in-silence",
        "mi_kernels/checkpoint/lora.py",
        old='_beside(adapter, base, (".safetensors", ".bin"))',
        new='_beside(adapter, base, (".safetensors",))',
        tests=(f"{_ADAPTERS}::test_weights_beside_an_adapter_are_named",),
    ),
    Fault(
        "padding-of-the-second-model",
        "mi_kernels/merge/plan.py",
        old="            yield Source(self.inputs, self.weights, kept=0), start, end - start\n",
        new="            yield Source(self.inputs, self.weights), start, end - start\n",
        tests=(f"{_HEADS}::test_padding",),
    ),
    Fault(
        "tokens-in-the-padding",
        "mi_kernels/checkpoint/differences.py",
        old="return one is not None and one == two and one.size <= rows",
        new="return one is not None and one == two",
        tests=(f"{_HEADS}::test_tokens_beyond_the_common_rows_are_refused",),
    ),
    Fault(
        "vocabulary-of-the-other-model-in-config",
        "mi_kernels/output/model_config.py",
        old='        if written.vocabulary is not None and "vocab_size" in part:\n',
        new="        if False:\n",
        tests=(f"{_HEADS}::test_padding",),
    ),
    Fault(
        "dtype-of-the-first-config-only",
        "mi_kernels/output/model_config.py",
        old="            yield from _parts(value,",
        new="            yield from () and _parts(value,",
        tests=(f"{_HEADS}::test_a_tower_in_another_dtype_has_its_own_dtype_in_config",),
    ),
    Fault(
        "computed-tensors-count-as-compared",
        "mi_kernels/merge/findings.py",
        old="not (self.computed.get(k) or self.unread.get(k))",
        new="not self.unread.get(k)",
        tests=("tests/merge/test_findings.py",),
    ),
    Fault(
        "left-out-tensors-count-as-compared",
        "mi_kernels/merge/findings.py",
        old="not (self.computed.get(k) or self.unread.get(k))",
        new="not self.computed.get(k)",
        tests=("tests/merge/test_findings.py",),
    ),
)
