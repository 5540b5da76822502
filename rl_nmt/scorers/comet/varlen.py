"""Attention over concatenated sequences in one kernel call, where the device has a correct kernel.

`torch.nn.attention.varlen.varlen_attn` (torch 2.10 and later; Dao 2023, arXiv:2307.08691) computes in half precision
on a CUDA card, without padding. The supported cards and head sizes differ between torch versions, so the kernel is
tested with the model's own shapes before it is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

from rl_nmt.errors import describe
from rl_nmt.models.loading import full_precision

# (query (Tq, heads, d), key, value (T, heads, d), cu_seq_q, cu_seq_k (N+1,) int32, max_q, max_k) → (Tq, heads, d):
# every version of varlen_attn takes these arguments, and none is causal with them.
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, int], torch.Tensor]
LENGTHS = (512, 300, 129, 128, 65, 64, 17, 7, 2, 2, 1)  # around the kernels' tile sizes, longest first as in a pack
ROUNDING = 4  # largest error of a correct kernel, in machine epsilons of the dtype


def choose(heads: int, size: int, dtype: torch.dtype, device: torch.device) -> tuple[Kernel | None, str]:
    """Return the kernel, or None and why it failed here ("" where none exists: on a CPU, and in float32).

    `heads`, `size`: attention heads and the width of each.
    """
    if device.type != "cuda" or dtype == torch.float32:
        return None, ""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:  # an older torch
        return None, describe(error)
    reason = problem(varlen_attn, heads, size, dtype, device)
    return (None if reason else varlen_attn), reason


@functools.cache  # models that are offloaded come back to the same device for every call
def problem(kernel: Kernel, heads: int, size: int, dtype: torch.dtype, device: torch.device) -> str:
    """Return why `kernel` cannot be used: its error, or its distance from SDPA run per sequence; "" if it is correct.

    It is tested with the layouts of packed_layers.py: keys and values as views of one matrix, queries of every token
    or of first tokens only.
    """
    generator = torch.Generator().manual_seed(0)
    joined = torch.randn(sum(LENGTHS), 3, heads, size, generator=generator).to(device, dtype)
    query, key, value = joined.unbind(1)
    ends = F.pad(torch.tensor(LENGTHS).cumsum(0), (1, 0))
    bounds, first = ends.to(device, torch.int32), torch.arange(len(ends), dtype=torch.int32, device=device)
    starts, longest = ends[:-1].to(device), max(LENGTHS)
    try:
        whole = kernel(query, key, value, bounds, bounds, longest, longest)
        alone = kernel(query[starts], key, value, first, bounds, 1, longest)
        with full_precision():  # TF32 would be as inexact as float16
            wanted = torch.cat([_attend(part) for part in joined.float().split(LENGTHS)])
        for what, got, right in (("all tokens", whole, wanted), ("first tokens", alone, wanted[starts])):
            if got.shape != right.shape or got.dtype != dtype:
                return f"{what}: {tuple(got.shape)} in {got.dtype}"
            off = ((got.float() - right).abs() / (1 + right.abs())).max().item()
            if not off <= ROUNDING * torch.finfo(dtype).eps:
                return f"{what}: differs from SDPA by {off:.1e}"
    except Exception as error:  # a kernel that was not built for this card raises anything
        return describe(error)
    return ""


def _attend(joined: torch.Tensor) -> torch.Tensor:
    """Compute SDPA within one sequence: (L, 3, heads, d) → (L, heads, d)."""
    query, key, value = joined.permute(1, 2, 0, 3).unbind(0)
    return F.scaled_dot_product_attention(query, key, value).transpose(0, 1)
