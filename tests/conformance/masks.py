"""Promises about masks: what they hide, padding, and masks with nothing in them."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from .cases import NOT_APPLICABLE, WORKS, Case, trained


def masked(case: Case) -> str:
    """What lies under the mask changes nothing outside of it, not even as NaN; a full mask is no mask."""
    if not case.takes("mask"):
        return NOT_APPLICABLE
    x, condition, mask = case.input(), case.condition(), case.mask()
    kept = (mask.unsqueeze(1) if case.maps else mask).expand_as(x)
    cotangent = torch.where(kept, case.input(seed=1), 0)
    results = []
    for filling in (0.0, torch.nan):
        padded = torch.where(kept, x, filling)
        got = trained(case.alone(), padded, cotangent, True, condition, mask=mask)
        got["y"], got["x.grad"] = got["y"][kept], got["x.grad"][kept]
        results.append(got)
    for name, want in results[0].items():
        assert_close(results[1][name], want)
    plain = trained(case.alone(), x, cotangent, True, condition)
    full = trained(case.alone(), x, cotangent, True, condition, mask=torch.ones_like(mask))
    for name, want in plain.items():
        assert_close(full[name], want)
    return WORKS


def padded(case: Case) -> str:
    """Padding, here NaN, changes nothing against the unpadded data: forward, backward and remembered."""
    if not case.takes("mask") or not case.maps or case.name == "spade":  # whose maps see their neighbours
        return NOT_APPLICABLE
    x, cotangent, condition = case.input(), case.input(seed=1), case.condition()
    wide, wide_cotangent = (torch.nn.functional.pad(t, (0, 4), value=v) for t, v in ((x, torch.nan), (cotangent, 0.0)))
    length = x.shape[-1]
    mask = torch.zeros(wide.shape[0], *wide.shape[2:], dtype=torch.bool)
    mask[..., :length] = True
    plain, layer = case.alone(), case.alone()
    for training in (True, False):
        expected = trained(plain, x, cotangent, training, condition)
        got = trained(layer, wide, wide_cotangent, training, condition, mask=mask)
        for name in ("y", "x.grad"):
            got[name] = got[name][..., :length]
        assert_close(got, expected)
    if case.rank == 1:
        lengths = torch.full((len(x),), length)
        assert_close(layer(wide, *condition, lengths=lengths)[..., :length], expected["y"])
    return WORKS


def nothing_under_the_mask(case: Case) -> str:
    """Finite everywhere, with a graph and without, and nothing is remembered."""
    if not case.takes("mask"):
        return NOT_APPLICABLE
    x, cotangent = (case.input(torch.float32, seed) for seed in (0, 1))
    condition = case.condition(torch.float32)
    layer, nothing = case.alone(torch.float32), torch.zeros_like(case.mask())
    before = {name: t.clone() for name, t in layer.named_buffers()}
    for training in (True, False):
        results = trained(layer, x, cotangent, training, condition, mask=nothing)
        assert all(t.isfinite().all() for t in results.values())
        with torch.no_grad():
            assert layer(x, *condition, mask=nothing).isfinite().all()
        assert_close(dict(layer.named_buffers()), before, rtol=0, atol=0)
    return WORKS
