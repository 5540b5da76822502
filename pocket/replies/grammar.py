"""A small world of social-media posts and short replies, and the check whether a reply fits its post.

A post has a topic (football, baking, …) and a mood (happy, sad or neutral). A good reply has an opener in the same
mood, a comment on the same topic and mood in words that the post does not use, and often a closing question or
remark. Every sentence is one of those that phrases.txt describes, so a text is checked by looking up its sentences.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rl_nmt.errors import ConfigError

MOODS = ("happy", "sad", "neutral")
CARELESS = ("generic", "off_topic", "wrong_mood", "short", "shouting", "echo")  # kinds of bad replies
POST_LENGTH, REPLY_LENGTH = (40, 140), (50, 150)  # characters
HELDOUT_SHARE = 10  # one post in ten
REPLY_SHAPE = re.compile(r"(open |lead comment |comment |open comment )(close )?|close ")  # roles of its sentences


@dataclass(frozen=True)
class Sentence:
    """One sentence; a "lead" is the words before the comma of a comment. `topic`: "any" if it fits every topic."""

    text: str
    role: str
    topic: str
    mood: str


@cache
def phrases() -> dict[tuple[str, str, str], list[list[Sentence]]]:
    """Return (role, topic, mood) → the sentences of each line of phrases.txt."""
    found: dict[tuple[str, str, str], list[list[Sentence]]] = {}
    topic = mood = ""
    for line in Path(__file__).with_name("phrases.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            topic, mood = line.strip("[]").split()
        elif line and not line.startswith("#"):
            role, text = line.split(": ", 1)
            texts = [Sentence(one, role, topic, mood) for one in expand(text)]
            found.setdefault((role, topic, mood), []).append(texts)
    return found


def expand(text: str) -> list[str]:
    """Return every sentence of a line with choices.

    >>> expand("I (am|feel) (so |)sad.")
    ['I am so sad.', 'I am sad.', 'I feel so sad.', 'I feel sad.']
    """
    pieces = [piece.split("|") for piece in re.split(r"[()]", text)]
    return ["".join(chosen) for chosen in itertools.product(*pieces)]


@cache
def known() -> dict[str, Sentence]:
    """Return text → sentence, for every sentence of the world."""
    return {one.text: one for lines in phrases().values() for texts in lines for one in texts}


@cache
def topics() -> tuple[str, ...]:
    """Return the topics, in the order of phrases.txt."""
    return tuple(dict.fromkeys(topic for _, topic, _ in phrases() if topic != "any"))


# ------------------------------------------------------------------ writing


def rows(seed: int, part: str, count: int, careless: float) -> Iterator[tuple[str, str]]:
    """Yield `count` rows (post, reply); no post repeats, and "train" and "heldout" have no post in common.

    `careless`: probability, 0 to 1, of a bad reply, whose kind is one of CARELESS. The posts of a seed and part do not
    depend on it. Raises ConfigError when the world has no further post.
    """
    rng, seen, refused = random.Random(f"{seed} {part}"), set[str](), 0
    while len(seen) < count:
        topic, mood = rng.choice(topics()), rng.choice(MOODS)
        post = new_post(rng, topic, mood)
        if post in seen or part_of(post) != part:
            refused += 1
            if refused > 50 * HELDOUT_SHARE:
                raise ConfigError(f"count: {count}: part {part!r} has only about {len(seen)} posts; ask for fewer")
            continue
        seen.add(post)
        refused = 0
        own = random.Random(f"{seed} {post}")
        bad = own.random() < careless
        yield post, careless_reply(own, own.choice(CARELESS), post) if bad else good_reply(own, topic, mood)


def part_of(post: str) -> str:
    """Return "heldout" or "train": by a hash of the post, whatever the seed."""
    return "train" if int(hashlib.sha256(post.encode()).hexdigest(), 16) % HELDOUT_SHARE else "heldout"


def draw(rng: random.Random, role: str, topic: str, mood: str) -> str:
    return rng.choice(rng.choice(phrases()[role, topic, mood])).text


def new_post(rng: random.Random, topic: str, mood: str) -> str:
    """Return a post of 40 to 140 characters: what happened, often with a feeling before or after."""
    while True:
        event, feeling, order = draw(rng, "post", topic, mood), draw(rng, "feel", "any", mood), rng.random()
        post = event if order < 0.25 else f"{feeling} {event}" if order < 0.4 else f"{event} {feeling}"
        if POST_LENGTH[0] <= len(post) <= POST_LENGTH[1]:
            return post


def good_reply(rng: random.Random, topic: str, mood: str) -> str:
    """Return a reply of 50 to 150 characters that fits a post of this topic and mood."""
    while True:
        comment, opener = draw(rng, "comment", topic, mood), rng.random()
        if opener < 0.7:
            comment = f"{draw(rng, 'open', 'any', mood)} {comment}"
        elif opener < 0.9:
            comment = f"{draw(rng, 'lead', 'any', mood)}, {lowered(comment)}"
        closing = rng.random()
        if closing < 0.7:
            comment = f"{comment} {draw(rng, 'close', topic if closing < 0.4 else 'any', mood)}"
        if REPLY_LENGTH[0] <= len(comment) <= REPLY_LENGTH[1]:
            return comment


def lowered(sentence: str) -> str:
    """Return the sentence as it is written after a comma."""
    return sentence if sentence.startswith("I ") else sentence[0].lower() + sentence[1:]


def careless_reply(rng: random.Random, kind: str, post: str) -> str:
    """Return a bad reply to a post, of one of the kinds in CARELESS, as people write them."""
    topic, mood = describe(post)
    if kind == "off_topic":
        return good_reply(rng, rng.choice([other for other in topics() if other != topic]), mood)
    if kind == "wrong_mood":
        return good_reply(rng, topic, rng.choice([other for other in MOODS if other != mood]))
    if kind == "short":
        return draw(rng, "open", "any", mood)
    if kind == "echo":
        return f"{sentences(post)[0]} {draw(rng, 'generic', 'any', 'careless')}"
    return draw(rng, {"generic": "generic", "shouting": "shout"}[kind], "any", "careless")


# ------------------------------------------------------------------ checking


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, by their end marks; runs of whitespace count as one space."""
    return re.split(r"(?<=[.!?]) ", " ".join(text.split()))


def parse(text: str) -> list[Sentence] | None:
    """Return the sentences of a text as those of the world, a lead before its comment; None if one is unknown."""
    found = []
    for text_of_one in sentences(text):
        lead, _, rest = text_of_one.partition(", ")
        comment = rest[:1].upper() + rest[1:]
        if text_of_one in known():
            found.append(known()[text_of_one])
        elif lead in known() and comment in known() and lowered(comment) == rest:
            found += [known()[lead], known()[comment]]
        else:
            return None
    return found


def describe(post: str) -> tuple[str, str]:
    """Return topic and mood of a post. Raises ConfigError if it is not one of this world's."""
    found = parse(post) or []
    events = [one for one in found if one.role == "post"]
    if len(events) != 1 or {one.role for one in found} - {"post", "feel"} or len({one.mood for one in found}) != 1:
        raise ConfigError(f"post: {post!r} is not a post of the pocket world; use its rows with its success check")
    return events[0].topic, events[0].mood


def read_reply(reply: str, topic: str, mood: str) -> tuple[bool, bool, bool]:
    """Return whether a reply is well formed, and whether its topic and its mood are these; only then true.

    Well formed: known sentences in a reply's order. The topic needs a comment: an opener alone has none.
    """
    found = parse(reply) or []
    if not REPLY_SHAPE.fullmatch("".join(f"{one.role} " for one in found)):
        return False, False, False
    on_topic = {one.topic for one in found} <= {topic, "any"} and any(one.role == "comment" for one in found)
    return True, on_topic, {one.mood for one in found} == {mood}


def success(posts: Sequence[str], replies: Sequence[str], references: Sequence[str] | None = None) -> list[float]:
    """Return 1.0 for each well-formed reply that fits its post, 0.5 if either topic or mood is wrong, else 0.0.

    The outside measure of this world: it looks sentences up and depends on no reward. `references` are not used.
    """
    read = [read_reply(reply, *describe(post)) for post, reply in zip(posts, replies, strict=True)]
    return [(on_topic + in_mood) / 2 for _, on_topic, in_mood in read]
