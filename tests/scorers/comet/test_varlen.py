"""rl_nmt.scorers.comet.varlen on a CPU: its self-test of right and wrong kernels, the encoder with a right one."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from comet_oracle import VARIANTS, rows
from tiny_models import build_comet

from rl_nmt.errors import ConfigError
from rl_nmt.scorers.comet import scorer as scorer_module
from rl_nmt.scorers.comet import varlen
from rl_nmt.scorers.comet.scorer import load_comet

CPU = torch.device("cpu")


def right(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options):
    """varlen_attn as torch documents it, sequence by sequence, with FlashAttention's requirements."""
    for part, cu, longest in ((query, cu_seq_q, max_q), (key, cu_seq_k, max_k), (value, cu_seq_k, max_k)):
        assert part.dim() == 3 and part.stride(-1) == 1
        assert cu.dtype == torch.int32 and cu.is_contiguous() and cu[-1] == len(part)
        assert longest == cu.diff().max()
    parts = []
    for (q, r), (k, n) in zip(pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True):
        one = (t.transpose(0, 1) for t in (query[q:r], key[k:n], value[k:n]))
        parts.append(F.scaled_dot_product_attention(*one, **options).transpose(0, 1))
    return torch.cat(parts)


def without_boundaries(query, key, value, *_):
    one = (t.transpose(0, 1) for t in (query, key, value))
    return F.scaled_dot_product_attention(*one).transpose(0, 1)


def all_but_the_last(query, key, value, cu_q, cu_k, max_q, max_k):
    """A kernel that misses the last key of each sequence."""
    return right(query, key.roll(1, 0), value.roll(1, 0), cu_q, cu_k, max_q, max_k)


def causal(*arguments):
    return right(*arguments, is_causal=arguments[0].shape == arguments[1].shape)


def of_queries(query, key, value, cu_q, cu_k, max_q, max_k):
    """A kernel that reads keys at the positions of the queries: wrong only where the two differ."""
    return right(query, key, value, cu_q, cu_k, max_q, max_k) if max_q == max_k else value[: len(query)].clone()


def unscaled(*arguments):
    return right(*arguments, scale=1.0)


def flat(*arguments):
    return right(*arguments).flatten(1)


def in_float32(*arguments):
    return right(*arguments).float()


def not_a_number(*arguments):
    return right(*arguments) * float("nan")


def broken(*arguments):
    raise RuntimeError("no kernel image is available\nfor execution on the device")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "size"), [(16, 64), (2, 80), (2, 8)])
def test_a_right_kernel_passes(dtype, heads, size):
    assert varlen.problem(right, heads, size, dtype, CPU) == ""


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (without_boundaries, "all tokens: differs from SDPA by"),
        (all_but_the_last, "all tokens: differs from SDPA by"),
        (causal, "all tokens: differs from SDPA by"),
        (unscaled, "all tokens: differs from SDPA by"),
        (of_queries, "first tokens: differs from SDPA by"),
        (flat, "all tokens: "),
        (in_float32, "all tokens: "),
        (not_a_number, "all tokens: differs from SDPA by nan"),
        (broken, "RuntimeError: no kernel image is available for execution on the device"),
    ],
)
def test_a_wrong_kernel_is_refused(kernel, reason):
    for dtype in (torch.bfloat16, torch.float16):
        assert varlen.problem(kernel, 4, 16, dtype, CPU).startswith(reason)


def test_torchs_own_raises_on_a_cpu_and_is_refused():
    module = pytest.importorskip("torch.nn.attention.varlen")
    assert "_flash_attention_forward" in varlen.problem(module.varlen_attn, 4, 16, torch.bfloat16, CPU)
    assert varlen.choose(4, 16, torch.bfloat16, CPU) == (None, "")


def test_the_self_test_does_not_change_the_random_state():
    state = torch.get_rng_state()
    varlen.problem.__wrapped__(right, 4, 16, torch.bfloat16, CPU)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind, overrides", [*VARIANTS, ("xcomet_metric", {"layer_norm": False})])
def test_the_packed_encoder_gives_the_same_scores(tmp_path, kind, overrides):
    scorer, segments = load_comet(build_comet(tmp_path / "m", kind=kind, **overrides)), rows()
    expected, calls = scorer.score(segments), []

    def kernel(*arguments):
        calls.append(arguments[-2:])
        return right(*arguments)

    scorer.route.encoder.varlen = kernel
    found = scorer.score(segments)
    assert found.values == pytest.approx(expected.values, abs=2e-6)
    if expected.spans:
        assert [[s[:3] for s in spans] for spans in found.spans] == [[s[:3] for s in spans] for spans in expected.spans]
    first_only = [call for call in calls if call[0] == 1 < call[1]]  # one query a sequence, in the top layer alone
    assert calls and bool(first_only) == scorer.route._first_only
    assert scorer.stats["padded_share"] == 0.0


@pytest.fixture
def chosen(monkeypatch):
    """As on a card: `choose` returns what a test appends here."""
    answers = [(right, "")]
    monkeypatch.setattr(varlen, "choose", lambda *_: answers[-1])
    return answers


def test_the_signature_names_the_attention(tiny_comet_qe, chosen):
    model = load_comet(tiny_comet_qe, dtype="bfloat16")
    plain = load_comet(tiny_comet_qe, dtype="bfloat16", attention="sdpa")
    chosen.append((None, "RuntimeError: not built"))
    fallen = load_comet(tiny_comet_qe, dtype="bfloat16")
    named = [scorer.signature()["environment"]["attention"] for scorer in (model, plain, fallen)]
    assert named == ["varlen", "sdpa", "sdpa (varlen: RuntimeError: not built)"]
    assert model.route.encoder.varlen is right and plain.route.encoder.varlen is fallen.route.encoder.varlen is None
    assert plain.score(rows()).values == fallen.score(rows()).values
    assert model.score(rows()).values == pytest.approx(plain.score(rows()).values, abs=0.05)
    assert model.signature()["identity"] == plain.signature()["identity"]


def test_the_signature_names_the_kernels_used_also_while_the_model_is_offloaded(tiny_comet_qe, chosen):
    scorer = load_comet(tiny_comet_qe, dtype="bfloat16")
    chosen.append((None, ""))  # as on the CPU after offloading
    scorer.to("cpu")
    assert "route" not in vars(scorer)  # nothing is prepared on the device that only stores it
    assert scorer.signature()["environment"]["attention"] == "varlen"
    scorer.score(rows()[:1])
    assert scorer.signature()["environment"]["attention"] == "sdpa"


def test_varlen_where_it_does_not_work_is_refused(tiny_comet_qe, chosen, monkeypatch):
    monkeypatch.setattr(scorer_module, "_require_usable", lambda *_: None)  # it refuses varlen on any CPU
    assert load_comet(tiny_comet_qe, dtype="bfloat16", attention="varlen").route.attention == "varlen"
    chosen.append((None, "RuntimeError: not built"))
    with pytest.raises(ConfigError, match=r"attention: varlen .*RuntimeError: not built"):
        load_comet(tiny_comet_qe, dtype="bfloat16", attention="varlen")
