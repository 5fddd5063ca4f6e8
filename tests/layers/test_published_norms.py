"""The layers with the state of transformers' own, against their values: Gemma, Qwen3-Next, Mamba-2, Zamba2, a DiT."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from transcriptions import data

import normwise as nw
import normwise.functional as nf
from tests import libraries

N, L, C = 2, 5, 16


def published(module, name):
    libraries.transformers()
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)


def with_state(theirs, ours):
    """Both with the same random state, loaded from theirs."""
    for p in theirs.parameters():
        nn.init.normal_(p)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("gemma.modeling_gemma", "GemmaRMSNorm"),
        ("gemma3.modeling_gemma3", "Gemma3RMSNorm"),
        ("qwen3_next.modeling_qwen3_next", "Qwen3NextRMSNorm"),
    ],
)
def test_zero_centered_rms_norm(module, name, dtype):
    """Bit for bit but for the order of fp32 sums, which moves a bf16 result by one unit at most."""
    theirs, ours = with_state(published(module, name)(C), nw.RMSNorm(C, eps=1e-6, zero_centered=True))
    x = data(N, L, C, dtype=dtype)
    unit = torch.finfo(dtype).eps
    assert_close(ours.to(dtype)(x), theirs.to(dtype)(x), rtol=max(unit, 1e-6), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("module", "name", "size", "options"),
    [
        ("qwen3_next.modeling_qwen3_next", "Qwen3NextRMSNormGated", (), {}),
        ("mamba2.modeling_mamba2", "MambaRMSNormGated", (C,), {"norm_before_gate": False}),
        ("mamba2.modeling_mamba2", "MambaRMSNormGated", (4,), {"norm_before_gate": False, "group_size": 4}),
        ("zamba2.modeling_zamba2", "Zamba2RMSNormGated", (4,), {"norm_before_gate": False, "group_size": 4}),
    ],
)
def test_gated_rms_norm(module, name, size, options, dtype):
    """Their code rounds to bf16 once before γ and once behind it."""
    theirs, ours = with_state(published(module, name)(C, *size), nw.GatedRMSNorm(C, eps=1e-6, **options))
    x, z = data(N, L, C, dtype=dtype), data(N, L, C, seed=1, dtype=dtype)
    tolerance = 1e-6 if dtype is torch.float32 else 2 * torch.finfo(dtype).eps
    assert_close(ours.to(dtype)(x, z), theirs.to(dtype)(x, z), rtol=max(tolerance, 2e-6), atol=tolerance)


def test_the_adaptive_norm_of_a_diffusion_transformer():
    """Its projection has six parts, for two norms and two gates, of which the first norm uses three."""
    theirs = published("qwen2_5_omni.modeling_qwen2_5_omni", "Qwen2_5_OmniAdaLayerNormZero")(C)
    for p in theirs.parameters():
        nn.init.normal_(p)
    x, c = data(N, L, C, dtype=torch.float32), data(N, C, seed=1, dtype=torch.float32)
    y, gate, shift, scale, _ = theirs(x, c)
    ours = nw.AdaptiveLayerNorm(C, C, gate=True)
    ours.load_state_dict({f"linear.{name}": p[: 3 * C] for name, p in theirs.linear.named_parameters()})
    got = ours(x, c)
    assert_close(got, (y, gate.unsqueeze(1)), rtol=1e-5, atol=1e-5)
    second = F.layer_norm(x, [C], eps=1e-6) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
    assert_close(nf.modulated_layer_norm(x, scale, shift), second, rtol=1e-5, atol=1e-5)


def test_the_adaptive_norm_of_its_last_layer_has_the_scale_first():
    theirs = published("qwen2_5_omni.modeling_qwen2_5_omni", "Qwen2_5_OmniAdaLayerNormZero_Final")(C)
    for p in theirs.parameters():
        nn.init.normal_(p)
    ours = nw.AdaptiveLayerNorm(C, C)
    ours.load_state_dict({f"linear.{n}": torch.cat(p.chunk(2)[::-1]) for n, p in theirs.linear.named_parameters()})
    x, c = data(N, L, C, dtype=torch.float32), data(N, C, seed=1, dtype=torch.float32)
    assert_close(ours(x, c), theirs(x, c), rtol=1e-5, atol=1e-5)
