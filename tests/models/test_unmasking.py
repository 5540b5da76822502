"""Filling masks step by step, and the estimators of a fill's likelihood against the sampler's own."""

from __future__ import annotations

from collections import Counter
from itertools import permutations, product

import pytest
import torch
from tiny_diffusion import ROWS, template, templates, tiny_generator, tiny_tokenizer

from rl_nmt.models.masked_diffusion import banned_ids
from rl_nmt.models.unmasking import coupled_half, fill, log_probs, nucleus, passes, random_steps

TOKENIZER = tiny_tokenizer()
MASK, BANNED = TOKENIZER.mask_token_id, banned_ids(TOKENIZER)
TEMPLATES, ATTENTION = templates(TOKENIZER)
MASKED = TEMPLATES == MASK
COUNTS = [3, 4, 0, 4]  # masks of each row


@pytest.fixture(scope="module")
def model():
    return tiny_generator()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(model, templates=TEMPLATES, attention_mask=ATTENTION, seed: int = 0, **options):
    return fill(model, templates, MASK, BANNED, attention_mask=attention_mask, generator=seeded(seed), **options)


def by_hand(model, ids, attention, temperature: float = 1.0):
    """Log-probabilities of every token at every position, (B, L, V)."""
    logits = model(input_ids=ids, attention_mask=attention).logits / temperature
    logits[..., BANNED] = float("-inf")
    return logits.log_softmax(-1)


# --- the sampler --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 9])
def test_every_mask_is_filled_and_nothing_else(model, steps, order):
    found = filled(model, steps=steps, order=order)
    assert torch.equal(found.ids[~MASKED], TEMPLATES[~MASKED])
    assert not torch.isin(found.ids[MASKED], torch.tensor(BANNED)).any()
    assert torch.equal(found.step_map > 0, MASKED) and torch.equal(found.log_probs < 0, MASKED)
    for row, masks in zip(found.step_map, COUNTS, strict=True):
        sizes = torch.bincount(row[row > 0], minlength=1)[1:].tolist()
        assert sum(sizes) == masks and len(sizes) == min(steps or masks, masks)
        assert not sizes or max(sizes) - min(sizes) <= 1


def test_a_batch_without_masks_stays_as_it_is(model):
    found = filled(model, TEMPLATES[2:3], ATTENTION[2:3])
    assert torch.equal(found.ids, TEMPLATES[2:3]) and not found.step_map.any() and not found.log_probs.any()


class Pushed:
    """A model with a bias on the logits."""

    def __init__(self, model, bias: dict[int, float]):
        self.model, self.bias = model, bias

    def __call__(self, **inputs):
        out = self.model(**inputs)
        for token, value in self.bias.items():
            out.logits[..., token] += value
        return out


def test_special_tokens_are_never_written_however_likely(model):
    pushed = Pushed(model, dict.fromkeys(BANNED, 1e4))
    found = filled(pushed, temperature=0.1)
    assert not torch.isin(found.ids[MASKED], torch.tensor(BANNED)).any()
    assert torch.equal(found.log_probs, filled(model, temperature=0.1).log_probs)


def test_the_recorded_log_probs_are_those_of_the_state_before_the_step(model):
    found = filled(model, steps=2, temperature=0.7)
    state = TEMPLATES
    for step in (1, 2):
        now = found.step_map == step
        expected = by_hand(model, state, ATTENTION, 0.7).gather(-1, found.ids[..., None])[..., 0]
        assert torch.allclose(found.log_probs[now], expected[now], atol=1e-5)
        state = torch.where(now, found.ids, state)


def test_one_generator_one_result(model):
    before = torch.get_rng_state()
    one, same, other = filled(model), filled(model), filled(model, seed=1)
    assert torch.equal(one.ids, same.ids) and torch.equal(one.step_map, same.step_map)
    assert not torch.equal(one.ids, other.ids) and not torch.equal(one.step_map, other.step_map)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_row_is_filled_the_same_alone_and_in_a_padded_batch(model):
    for row, text in enumerate(ROWS):  # a nucleus of one token: no chance in it but the order
        alone = torch.tensor([template(TOKENIZER, text)])
        found = filled(model, steps=1, top_p=1e-9)
        assert torch.equal(filled(model, alone, None, steps=1, top_p=1e-9).ids[0], found.ids[row, : alone.shape[1]])


def test_the_nucleus_by_hand():
    probabilities = torch.tensor([[0.2, 0.5, 0.0, 0.3], [0.25, 0.25, 0.25, 0.25]])
    kept = nucleus(probabilities.log(), 0.6).exp()
    assert torch.allclose(kept[0], torch.tensor([0.0, 0.625, 0.0, 0.375]), atol=1e-6)  # 0.5 alone is not enough
    assert (kept[1] > 0).sum() == 3
    assert torch.equal(nucleus(probabilities.log(), 1.0), probabilities.log())


def test_sampling_keeps_to_the_nucleus_and_records_its_log_probs(model):
    whole = by_hand(model, TEMPLATES, ATTENTION)[MASKED].detach()
    kept = nucleus(whole, 0.5)
    seen = set()
    for seed in range(40):
        found = filled(model, steps=1, top_p=0.5, seed=seed)
        tokens = found.ids[MASKED]
        assert torch.allclose(found.log_probs[MASKED], kept.gather(1, tokens[:, None])[:, 0], atol=1e-5)
        seen |= set(enumerate(tokens.tolist()))
    assert len(seen) == kept.isfinite().sum() < whole.isfinite().sum()  # all of the nucleus, nothing outside


def test_confidence_reveals_the_likeliest_first(model):
    found = filled(model, steps=3, order="confidence", top_p=1e-9)  # greedy
    ids, sizes = TEMPLATES.clone(), [torch.bincount(row, minlength=4)[1:].tolist() for row in found.step_map]
    for step in range(3):
        best, tokens = by_hand(model, ids, ATTENTION).max(-1)
        left = best.masked_fill(ids != MASK, float("-inf"))
        for row in range(len(ids)):
            places = left[row].topk(sizes[row][step]).indices
            ids[row, places] = tokens[row, places]
            assert (found.step_map[row, places] == step + 1).all()
    assert torch.equal(found.ids, ids)


# --- orders -------------------------------------------------------------------------------------------


def test_every_order_is_as_likely_as_any_other():
    masked = torch.tensor([[True, False, True, True]]).expand(2000, 4)
    for steps, orders in ((0, set(permutations((1, 2, 3)))), (2, {(1, 1, 2), (1, 2, 1), (2, 1, 1)})):
        found = random_steps(masked, steps, seeded())
        assert not found[:, 1].any()
        counted = Counter(map(tuple, found[:, [0, 2, 3]].tolist()))
        assert counted.keys() == orders
        assert all(abs(count - 2000 / len(orders)) < 90 for count in counted.values())  # 4 standard deviations


# --- estimators ---------------------------------------------------------------------------------------


def estimated(model, found, estimator="trajectory", attention_mask=ATTENTION, **options):
    return log_probs(
        model, found.ids, found.step_map, MASK, BANNED, attention_mask=attention_mask, estimator=estimator, **options
    )


@pytest.mark.parametrize("steps", range(5))
def test_the_trajectory_is_the_samplers_own_in_any_batch(model, steps):
    found = filled(model, steps=steps, temperature=0.8)
    exact = estimated(model, found, temperature=0.8)[0]
    assert (exact - found.log_probs).abs().max() <= 1e-5
    for row, text in enumerate(ROWS):
        length = len(text) + 2
        ids, step_map = (each[row : row + 1, :length].repeat(3, 1) for each in (found.ids, found.step_map))
        alone = log_probs(model, ids, step_map, MASK, BANNED, temperature=0.8)[0]
        assert (alone - found.log_probs[row, :length]).abs().max() <= 1e-5


def test_one_step_is_exact_for_one_step_alone(model):
    for steps, exact in ((1, True), (2, False), (0, False)):
        found = filled(model, steps=steps)
        error = (estimated(model, found, "one_step")[0] - found.log_probs).abs().max()
        assert error <= 1e-5 if exact else error > 0.1


def test_coupled_passes_cover_each_mask_once_and_average_with_the_whole(model):
    found = filled(model)
    for seed in range(20):
        half = coupled_half(found.step_map, seeded(seed))
        (every, scored, _), (one, one_scored, _), (two, two_scored, _) = passes(found.step_map, "coupled", half)
        assert torch.equal(every, MASKED) and torch.equal(scored, MASKED)
        assert not (one & two).any() and torch.equal(one | two, MASKED)
        assert torch.equal(one, one_scored) and torch.equal(two, two_scored)
    expected = torch.zeros_like(found.log_probs)
    for masked, weight in ((MASKED, 0.5), (half, 0.5), (MASKED & ~half, 0.5)):
        logs = by_hand(model, found.ids.masked_fill(masked, MASK), ATTENTION)
        own = logs.gather(-1, found.ids[..., None])[..., 0].detach()
        expected += weight * own.masked_fill(~masked, 0)
    assert torch.allclose(estimated(model, found, "coupled", half=half)[0], expected, atol=1e-5)
    with pytest.raises(ValueError, match="half"):
        estimated(model, found, "coupled")


def test_coupled_halves_take_a_fifth_to_four_fifths():
    shares = coupled_half(torch.ones(400, 1000), seeded()).float().mean(1)
    assert 0.15 < shares.min() < 0.25 and 0.75 < shares.max() < 0.85 and abs(shares.mean() - 0.5) < 0.05


@pytest.mark.parametrize("estimator", ["trajectory", "one_step", "coupled"])
def test_given_tokens_have_no_log_prob_and_no_gradient(model, estimator):
    found = filled(model, steps=2)
    half = coupled_half(found.step_map, seeded())
    total, entropies = estimated(model, found, estimator, half=half)
    for each in (total, entropies):
        assert not each[~MASKED].any() and each[MASKED].all()
    gradients = torch.autograd.grad(total[~MASKED].sum(), list(model.parameters()), retain_graph=True)
    assert not any(gradient.any() for gradient in gradients)
    gradients = torch.autograd.grad(total.sum(), list(model.parameters()))
    assert all(g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)
    assert not entropies.requires_grad  # its graph would keep further (N, V) tensors


def test_values_entropies_and_gradients_by_hand(model):
    found = filled(model, steps=1)
    total, entropies = estimated(model, found, temperature=0.5)
    logs = by_hand(model, TEMPLATES, ATTENTION, 0.5)
    expected = logs.gather(-1, found.ids[..., None])[..., 0][MASKED]
    spread = torch.distributions.Categorical(logits=logs[MASKED].detach()).entropy()
    assert torch.allclose(total[MASKED], expected, atol=1e-5)
    assert torch.allclose(entropies[MASKED], spread, atol=1e-5)
    names, weights = zip(*model.named_parameters(), strict=True)
    pairs = zip(names, *(torch.autograd.grad(each.sum(), weights) for each in (total, expected)), strict=True)
    for name, one, other in pairs:
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4), name


# --- the joint ----------------------------------------------------------------------------------------

TWO = TOKENIZER.convert_tokens_to_ids(["a", "b"])
ONLY_TWO = [i for i in range(len(TOKENIZER)) if i not in TWO]


def joint(model, text: str, order: tuple[int, ...], estimator: str, half=None) -> torch.Tensor:
    """Return the probability of each fill of `text` with two letters, revealed at the steps `order`."""
    base = torch.tensor(template(TOKENIZER, text))
    masked = base == MASK
    fills = list(product(TWO, repeat=len(order)))
    ids, step_map = base.repeat(len(fills), 1), torch.zeros(len(fills), len(base), dtype=torch.long)
    ids[:, masked], step_map[:, masked] = torch.tensor(fills), torch.tensor(order)
    options = {"estimator": estimator, "half": None if half is None else half.expand_as(ids)}
    return log_probs(model, ids, step_map, MASK, ONLY_TWO, **options)[0].sum(1).exp().detach()


def test_the_estimate_is_a_distribution_over_fills(model):
    exact, one_step = (joint(model, "c_d__", (2, 1, 1), estimator) for estimator in ("trajectory", "one_step"))
    assert exact.sum().item() == pytest.approx(1, abs=1e-5) and one_step.sum().item() == pytest.approx(1, abs=1e-5)
    assert (exact - one_step).abs().max() > 0.01
    half = torch.tensor([False, False, True, False, False, True, False])
    assert joint(model, "c_d__", (2, 1, 1), "coupled", half).sum() < 0.999  # a mean of logs is none


def test_the_sampler_draws_from_the_trajectorys_distribution():
    model, base = tiny_generator(5), torch.tensor([template(TOKENIZER, "__")])
    expected = sum(joint(model, "__", order, "trajectory") for order in permutations((1, 2))) / 2
    found = fill(model, base.repeat(6000, 1), MASK, ONLY_TWO, generator=seeded()).ids[:, base[0] == MASK]
    counted = Counter(map(tuple, found.tolist()))
    shares = torch.tensor([counted[each] / 6000 for each in product(TWO, repeat=2)])
    assert (shares - expected).abs().max() < 0.025  # 4 standard deviations
    assert (joint(model, "__", (1, 2), "one_step") - expected).abs().max() > 0.1
