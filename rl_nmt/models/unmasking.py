"""Fill the masks of templates step by step, and compute how likely a fill was.

`fill` reveals some masks at each of S steps. With order "random" the places are drawn without looking at the tokens.
Then log p of a fill in its order is that of the order, which no weight changes, plus the sum over its tokens of
log p(token | what was revealed before its step). `log_probs` with estimator "trajectory" replays just these states, as
TraceRL (arXiv 2509.06949) and AGRPO (arXiv 2510.04019) do: it is exact. The others need fewer forward passes, and are
inexact with more than one step:

    one_step   every token in the state where all are masked: one pass (Zhao et al. 2025, d1, arXiv 2504.12216, which
               also masks a part of the prompt)
    coupled    the mean of that and of a pass in which a random half is masked, and its complement in another (Gong et
               al. 2025, DiffuCoder, arXiv 2506.20639; without the weights of its released code)

With order "confidence" (LLaDA's) the places depend on the tokens: the model's choice of places is part of its policy,
and no estimator here counts it.

A step map (B, L) has the step, from 1, at which a token was revealed, and 0 for given tokens and padding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

Estimator = Literal["trajectory", "one_step", "coupled"]
ESTIMATORS: tuple[Estimator, ...] = ("trajectory", "one_step", "coupled")
COUPLED = (0.2, 0.8)  # range of the share of masks in the first of two coupled passes


@dataclass
class Fill:
    """Filled templates: `ids`, `step_map` (B, L) int64; `log_probs` (B, L), the sampler's own, 0 where given."""

    ids: torch.Tensor
    step_map: torch.Tensor
    log_probs: torch.Tensor


def random_steps(masked: torch.Tensor, steps: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return a step map (B, L) that reveals the masks in random order; the steps differ by at most one mask.

    `masked`: (B, L) bool; `steps`: S, 0 for one mask at each step.
    """
    count = masked.sum(1, keepdim=True)  # (B, 1)
    noise = torch.rand(masked.shape, generator=generator, device=masked.device)
    rank = noise.masked_fill(~masked, 2.0).argsort(1).argsort(1)  # 0 … n - 1 for masks
    wanted = count if steps == 0 else count.clamp(max=steps)
    return (rank * wanted // count.clamp(min=1) + 1).masked_fill(~masked, 0)


@torch.no_grad()
def fill(
    model,
    templates: torch.Tensor,
    mask_id: int,
    banned: list[int],
    *,
    attention_mask: torch.Tensor | None = None,
    steps: int = 0,
    order: Literal["random", "confidence"] = "random",
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Fill:
    """Fill every mask of `templates` (B, L), which has `mask_id` there; given tokens stay as they are.

    `banned`: ids that are never written. `steps`: S, at most the masks of a row; 0: one mask at a time. `temperature`:
    above 0. `top_p`: in (0, 1], nucleus; the log-probabilities are then those of the nucleus. `generator`: torch's, on
    the model's device, else the global one.
    """
    masked = templates == mask_id
    planned = random_steps(masked, steps, generator)
    step_map = torch.zeros_like(planned) if order == "confidence" else planned
    ids, found = templates.clone(), torch.zeros(templates.shape, device=templates.device)
    for step in range(1, int(planned.max()) + 1):
        count = (planned == step).sum(1)  # (B,)
        rows = (count > 0).nonzero()[:, 0]
        seen = None if attention_mask is None else attention_mask[rows]
        left = ids[rows] == mask_id
        asked = left if order == "confidence" else step_map[rows] == step
        whole = token_log_probs(model, ids[rows], seen, asked, banned, temperature)  # (N, V)
        logs = nucleus(whole, top_p)
        tokens = torch.multinomial(logs.exp(), 1, generator=generator)  # (N, 1)
        drawn, own = torch.zeros_like(ids[rows]), torch.zeros_like(found[rows])
        drawn[asked], own[asked] = tokens[:, 0], logs.gather(1, tokens)[:, 0]
        if order == "confidence":
            sure = torch.full_like(own, float("-inf"))
            sure[left] = whole.gather(1, tokens)[:, 0]
            asked = left & (sure.argsort(1, descending=True).argsort(1) < count[rows, None])
            step_map[rows] += step * asked
        ids[rows] = torch.where(asked, drawn, ids[rows])
        found[rows] = torch.where(asked, own, found[rows])
    return Fill(ids, step_map, found)


def token_log_probs(
    model,
    ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    asked: torch.Tensor,
    banned: list[int],
    temperature: float,
) -> torch.Tensor:
    """Return log p of every token at the N positions `asked` (B, L) bool, float32 (N, V); −inf for banned ids."""
    logits = model(input_ids=ids, attention_mask=attention_mask, keep=asked).logits.float() / temperature
    never = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    never[banned] = True
    return logits.masked_fill(never, float("-inf")).log_softmax(-1)


def nucleus(log_probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return (N, V) log-probabilities of the smallest set with at least `top_p` of the mass (Holtzman et al. 2020)."""
    if top_p >= 1:
        return log_probs
    ordered, places = log_probs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()  # mass of the likelier ones
    cut = (before >= top_p).scatter(-1, places, before >= top_p)
    return log_probs.masked_fill(cut, float("-inf")).log_softmax(-1)


def coupled_half(step_map: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return (B, L) bool: the masks of the first of two coupled passes, a share in COUPLED of each row's."""
    low, high = COUPLED
    share = torch.rand(len(step_map), 1, generator=generator, device=step_map.device) * (high - low) + low
    return (torch.rand(step_map.shape, generator=generator, device=step_map.device) < share) & (step_map > 0)


def passes(
    step_map: torch.Tensor, estimator: Estimator, half: torch.Tensor | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
    """Yield, per forward pass, which positions are masked and which are scored, (B, L) bool, and their weight.

    `half`: of `coupled_half`, the same for the policy, the old policy and the reference.
    """
    every = step_map > 0
    if estimator == "trajectory":
        for step in range(1, int(step_map.max()) + 1):
            yield step_map >= step, step_map == step, 1.0
        return
    if estimator == "one_step":
        yield every, every, 1.0
        return
    if half is None:
        raise ValueError("estimator coupled needs `half`")
    yield every, every, 0.5
    for part in (half, every & ~half):
        yield part, part, 0.5


def log_probs(
    model,
    ids: torch.Tensor,
    step_map: torch.Tensor,
    mask_id: int,
    banned: list[int],
    *,
    attention_mask: torch.Tensor | None = None,
    estimator: Estimator = "trajectory",
    half: torch.Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p of each written token, and the entropy of its distribution in nats, (B, L) float32, 0 where given.

    `ids`, `step_map`: of a `Fill` by order "random", without `top_p`. Gradients flow through the first alone.
    """
    total = torch.zeros(ids.shape, device=ids.device)
    entropies = torch.zeros(ids.shape, device=ids.device)
    for masked, scored, weight in passes(step_map, estimator, half):
        rows = scored.any(1).nonzero()[:, 0]
        if not len(rows):
            continue
        state = ids[rows].masked_fill(masked[rows], mask_id)
        seen, asked = None if attention_mask is None else attention_mask[rows], scored[rows]
        logs = token_log_probs(model, state, seen, asked, banned, temperature)  # (N, V)
        own = logs.gather(1, ids[rows][asked][:, None])[:, 0]
        known = logs.detach()  # with a gradient, entropies would keep three more (N, V) tensors
        spread = -(known.exp() * known.masked_fill(known.isinf(), 0.0)).sum(-1)
        where = torch.zeros_like(scored)
        where[rows] = asked
        total = total.masked_scatter(where, total[where] + weight * own)
        entropies = entropies.masked_scatter(where, entropies[where] + weight * spread)
    return total, entropies


@torch.no_grad()
def differences(
    model,
    templates: torch.Tensor,
    mask_id: int,
    banned: list[int],
    *,
    attention_mask: torch.Tensor | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    **sampler: Any,
) -> dict[Estimator, torch.Tensor]:
    """Fill `templates`, and return per estimator log p of each fill less the sampler's own, in nats, (B,).

    `sampler`: steps, order, top_p of `fill`.
    """
    fixed: dict[str, Any] = {"mask_id": mask_id, "banned": banned, "attention_mask": attention_mask}
    fixed["temperature"] = temperature
    done = fill(model, templates, **fixed, generator=generator, **sampler)
    half = coupled_half(done.step_map, generator)
    scored = {
        name: log_probs(model, done.ids, done.step_map, estimator=name, half=half, **fixed)[0] for name in ESTIMATORS
    }
    return {name: (found - done.log_probs).sum(1) for name, found in scored.items()}
