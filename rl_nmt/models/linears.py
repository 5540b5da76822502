"""Linear layers for frozen models on a CPU: torch's own, or oneDNN's with weights in its own layout."""

import itertools

import torch
import torch.nn.functional as F

ROUND = 8


def prepacked_works() -> bool:
    """Whether oneDNN takes weights in its own layout here, with the results of torch's linear.

    The operators are private to torch (its compiler uses them), so each is tested before it is used: odd
    sizes, one row and many, with and without GELU, float32 to 1e-5 and bfloat16 to its own rounding.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(72, 40, generator=generator) / 6, torch.randn(72, generator=generator)
    kinds = ((torch.float32, 1e-5), (torch.bfloat16, 4e-2))
    try:
        for (dtype, tolerance), rows, gelu in itertools.product(kinds, (1, 7, 130), (False, True)):
            x = torch.randn(rows, 40, generator=generator)
            wanted = Plain(weight, bias, torch.float32, gelu)(x)
            got = Prepacked(weight, bias, dtype, gelu)(x.to(dtype)).float()
            if got.shape != wanted.shape or not (got - wanted).abs().max() <= tolerance:
                return False
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


class Plain:
    """torch's own linear, with an optional exact GELU behind it."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype, gelu: bool = False):
        self.weight, self.bias, self.gelu = weight.to(dtype), bias.to(dtype), gelu

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if self.gelu else y


class Prepacked:
    """The same with the weight stored in oneDNN's layout; torch's linear reorders it, or calls MKL, at every call."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype, gelu: bool = False):
        plain = weight.detach().to(dtype).contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(plain)
        self.bias = bias.detach().to(dtype)
        self.attr, self.algorithm = ("gelu", "none") if gelu else ("none", "")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        rows = flat.shape[0]
        flat = F.pad(flat, (0, 0, 0, rounded(rows) - rows))
        y = torch.ops.mkldnn._linear_pointwise(flat, self.weight, self.bias, self.attr, [], self.algorithm)
        return y[:rows].view(*x.shape[:-1], y.shape[-1])


def rounded(rows: int) -> int:
    """Round a row count up to one of few values, from 128 on by at most 1/ROUND.

    oneDNN keeps a compiled kernel for every row count it sees, up to a thousand of them: without rounding, memory
    grows by a megabyte a call.

    >>> [rounded(n) for n in (1, 100, 129, 1723)]
    [8, 104, 144, 1792]
    """
    step = max(8, (1 << (rows - 1).bit_length()) // (2 * ROUND))
    return -(-rows // step) * step
