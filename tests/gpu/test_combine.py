"""mi_kernels.combine of CUDA tensors: the bits of the same call on the CPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from mi_kernels import combine  # noqa: E402

from ..support.methods import drawn_cases  # noqa: E402

CASES = drawn_cases(2)


@pytest.mark.parametrize("case", CASES)
def test_the_bits_of_the_cpu(case: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    method, with_base, count, parameters = CASES[case]
    tensors = [torch.randn(5001).bfloat16() for _ in range(with_base + count)]
    results = []
    for device in ("cpu", "cuda"):
        moved = [t.to(device) for t in tensors]
        base = {"base": moved[0]} if with_base else {}
        made = combine(moved[with_base:], method, **base, **parameters)
        out = torch.empty_like(moved[0])
        assert combine(moved[with_base:], method, **base, **parameters, out=out) is out
        assert made.device == moved[0].device
        results += [made.cpu(), out.cpu()]
    for other in results[1:]:
        assert torch.equal(results[0].view(torch.int16), other.view(torch.int16))
