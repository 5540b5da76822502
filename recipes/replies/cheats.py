"""Build cheats for the launch gate of replies. No model, no torch.

*Hard* families could not be a reply at all. *Soft* ones may pass as one but are empty, rude or about something else.
"""

import random
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

from recipes.replies.components import copied, shouted, words
from rl_nmt.audit.launch_gate import MAX_PAIRS, Cheat, Pair, Reward, require_launch
from rl_nmt.data.eval_sets import choose
from rl_nmt.errors import ConfigError
from rl_nmt.text.unicode import length

HARD = ("echo", "word_salad", "emoji_only")
EMOJI = "😀😂🥰😎🤔👏🙌🔥🎉💯🚀✨🌟🍀🌈🎈🏆💪👀🙏"
EMPTY = ("Agreed!", "lol", "So true!", "Nice.", "Thanks for sharing!", "Great point!", "Same here, haha.", "Yes!!")
MIN_LENGTH, NOISE = 20, 0.1  # of an honest reply in characters; share of people's replies
SALAD = 24  # words of a salad: about the middle of the best band of lengths


def suite(pairs: Sequence[Pair]) -> list[Cheat]:
    """Return the cheats of all (post, reply) pairs, family by family; equal pairs give equal cheats.

    A cheat that equals the reply is left out, as are off_topic of a single pair and shouting without small letters.
    """
    spoken = [frozenset(words(f"{post} {reply}")) for post, reply in pairs]
    made = [_cheats(post, reply, _least_like(pairs, spoken, i)) for i, (post, reply) in enumerate(pairs)]
    texts = [(family, i, texts[family]) for family in made[0] for i, texts in enumerate(made)] if made else []
    return [Cheat(family, family in HARD, i, text) for family, i, text in texts if text not in (None, pairs[i][1])]


def _cheats(post: str, reply: str, unlike: str | None) -> dict[str, str | None]:
    rng = random.Random(f"{post}\n{reply}")
    loud = reply.upper()
    return {
        "echo": post,
        "word_salad": _salad(post, reply, rng),
        "emoji_only": " ".join("".join(rng.choices(EMOJI, k=20)) + mark for mark in "!!?"),
        "off_topic": unlike,
        "generic": rng.choice(EMPTY),
        "shouting": None if loud == reply else loud.rstrip(".!?… ") + "!!!",
        "padded_questions": f"{reply} Right? Don't you think? Or what? Right?",
    }


def _salad(post: str, reply: str, rng: random.Random) -> str:
    """Return up to SALAD words of both texts in random order, as two sentences and a question."""
    said = list(dict.fromkeys(words(f"{post} {reply}")))
    rng.shuffle(said)
    said = list(islice(cycle(said), min(SALAD, max(len(said), SALAD // 2))))
    third = len(said) // 3
    parts = (said[:third], said[third : 2 * third], said[2 * third :])
    return " ".join(" ".join(part).capitalize() + mark for part, mark in zip(parts, ".!?", strict=True))


def _least_like(pairs: Sequence[Pair], spoken: Sequence[frozenset[str]], index: int) -> str | None:
    """Return the reply of the pair with the smallest share of words of this post; of equals the next one."""
    own, count = frozenset(words(pairs[index][0])), len(pairs)
    others = ((index + step) % count for step in range(1, count))
    found = min(others, key=lambda i: len(own & spoken[i]) / max(1, len(spoken[i])), default=None)
    return None if found is None else pairs[found][1]


def honest(post: str, reply: str) -> bool:
    """Return whether a human reply is one that a cheat must not beat."""
    return length(reply) >= MIN_LENGTH and not shouted(reply) and copied(post, reply) < 0.5


def require_replies_launch(reward: Reward, rows: Sequence[dict[str, str]], bound: float, seed: int) -> dict[str, Any]:
    """Run the launch gate on up to MAX_PAIRS held-out rows {"source", "reference"}; see `require_launch`.

    People's replies are noisy: those that a cheat family could have made (very short, in capitals, mostly copied), and
    of the others the NOISE lowest by the reward, are not compared. `bound`: mean share of wins that soft cheats may
    have. Raises RewardRefused, and ConfigError without a usable reference.
    """
    found = [row for row in rows if honest(row["source"], row.get("reference") or "")]
    if not found:
        raise ConfigError(
            f"data.eval_file: no held-out post has a reply of {MIN_LENGTH} characters that is neither shouted nor "
            "copied; the launch gate compares cheats with such replies"
        )
    chosen = choose(found, int(MAX_PAIRS / (1 - NOISE)), seed)
    pairs = [(row["source"], row["reference"]) for row in chosen]
    scored = reward.score_components(None, [reply for _, reply in pairs], source=[post for post, _ in pairs])
    ranked = sorted(range(len(pairs)), key=lambda i: -1.0 if scored[i]["total"] is None else scored[i]["total"])
    noise = {*ranked[: int(NOISE * len(pairs))]}
    kept = [pair for i, pair in enumerate(pairs) if i not in noise]
    return require_launch(reward, kept, suite, bound, "held-out replies")
