"""GRPO that also rewards the set of samples of a prompt, so that diversity survives.

    A_i = clip((t_i − mean(t)) / (std(t) + 1e-4), ± clip_range)        over the G samples of one prompt (TRL's)
    t_i = r_i + set_weight · share_i                                    r: the reward
    share_i = G · (V(S) − V(S without i)),   V(S) = mean(r over S) · diversity(S)

V itself is the same for all G, so it would vanish in the group's normalisation; its leave-one-out shares differ. The
value is that of polychromic objectives (arXiv 2509.25424), which give a whole set one advantage; the shares are ours.
"""

from itertools import combinations, pairwise

import torch

from rl_nmt import distributed
from rl_nmt.training.trainer import GuardedGRPOTrainer

MIN_SET = 3  # fewer have no pair left when one is taken out


def bigrams(text: str) -> frozenset[tuple[str, ...]]:
    """Return the word pairs of a text, case-folded; of a single word, the word."""
    words = text.casefold().split()
    return frozenset(pairwise(words)) or frozenset([tuple(words)])


def distances(texts: list[str]) -> torch.Tensor:
    """Return (G, G): 1 − the Jaccard overlap of the word pairs of each two texts; 0 to 1, the diagonal 0."""
    sets, found = [bigrams(text) for text in texts], torch.zeros(len(texts), len(texts))
    for i, j in combinations(range(len(texts)), 2):
        found[i, j] = found[j, i] = 1 - len(sets[i] & sets[j]) / len(sets[i] | sets[j])
    return found


def set_value(rewards: torch.Tensor, apart: torch.Tensor) -> torch.Tensor:
    """Return V of a set: the mean of `rewards` (G,) times the mean distance of its pairs; `apart`: (G, G)."""
    count = len(rewards)
    return rewards.mean() * apart.sum() / (count * (count - 1))


def set_shares(rewards: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """Return the share (G,) of each sample in the value of its set; see the module. Pure.

    `rewards`: (G,). A sample without a score (NaN) is not in the set and has the share NaN. In a set of fewer than
    MIN_SET samples all shares are 0.
    """
    shares, there = torch.full_like(rewards, float("nan")), rewards.isfinite().nonzero()[:, 0].tolist()
    shares[there] = 0.0
    if len(there) < MIN_SET:
        return shares
    apart = distances([texts[i] for i in there]).to(rewards)
    scored = rewards[there]
    whole = set_value(scored, apart)
    for place, i in enumerate(there):
        rest = [k for k in range(len(there)) if k != place]
        shares[i] = len(there) * (whole - set_value(scored[rest], apart[rest][:, rest]))
    return shares


class SetRewardTrainer(GuardedGRPOTrainer):
    """GuardedGRPOTrainer with a set reward and clipped advantages; see the module.

    `clip_range`: None does not clip. Also logs avg_reward, kl_penalty (its weight times the mean KL) and policy_loss
    (the loss less kl_penalty).
    """

    def __init__(self, *args, set_weight: float = 0.0, clip_range: float | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.set_weight, self.clip_range = set_weight, clip_range

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # (B, 1), of all
        if not self.set_weight:
            return rewards
        size = self.num_generations if self.model.training else self.num_generations_eval
        texts = distributed.gathered(list(completions))
        groups = zip(rewards[:, 0].split(size), range(0, len(texts), size), strict=True)
        shares = torch.cat([set_shares(group, texts[at : at + size]) for group, at in groups])  # (B,)
        spread = torch.nan_to_num(shares).view(-1, size).std(1).mean().item()
        self._metrics["train" if self.model.training else "eval"]["set/share_std"].append(spread)
        return rewards + self.set_weight * shares[:, None]

    def _generate_and_score_completions(self, inputs):
        out = super()._generate_and_score_completions(inputs)
        if self.clip_range is not None:
            out["advantages"] = out["advantages"].clamp(-self.clip_range, self.clip_range)
        return out

    def log(self, logs, start_time=None):
        kl, rewards = (self._metrics["train"].get(name, []) for name in ("kl", "reward"))
        if "loss" in logs and rewards:
            penalty = self.beta * sum(kl) / len(kl) if kl else 0.0
            logs |= {"policy_loss": logs["loss"] - penalty, "kl_penalty": penalty}
            if known := [value for value in rewards if value == value]:  # NaN: no sample of that step had a score
                logs["avg_reward"] = sum(known) / len(known)
        super().log(logs, start_time)
