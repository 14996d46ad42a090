"""What a device can compute."""

import pytest
import torch

from robokit.compute.devices import has_bf16


@pytest.mark.parametrize(
    ("capabilities", "has"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
        ({"neon": True}, True),  # torch cannot tell
    ],
)
def test_units_for_bf16_are_those_that_torch_names(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], has: bool
):
    """Nothing may be compiled here: inductor would note once and for all that there are no vector units."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bf16(torch.device("cpu")) is has
