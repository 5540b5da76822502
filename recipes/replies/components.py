"""Compute the parts of the heuristic reward that need no neural model, from cleaned texts.

The formula is in heuristic.py. All parts are between 0 and 1; lengths are in characters (`rl_nmt.text.unicode.length`).
"""

import math
import re
from functools import lru_cache

from rl_nmt.text.languages import ENGLISH
from rl_nmt.text.tokens import tokenize
from rl_nmt.text.unicode import length

QUESTION, TWO_SENTENCES = 1.1, 1.05  # factors of engagement, which starts low enough for both to count
GENERIC = (
    *("agreed", "i agree", "exactly", "same", "same here", "so true", "true", "totally", "yes", "yep", "no", "nope"),
    *("ok", "okay", "cool", "nice", "great", "wow", "lol", "haha", "thanks", "thank you", "well said", "good point"),
)
_QUESTIONS = re.compile(r"[!?]*\?[!?]*")
_SENTENCE_MARKS = re.compile(r"[.!?…]+(?!\w)")  # "!!!" is one


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """Return the words, numbers and addresses of a text in any script, case-folded, without punctuation and emoji."""
    return tuple(token.text.casefold() for token in tokenize(text, ENGLISH))


def length_score(reply: str) -> float:
    count = length(reply)
    return next((score for end, score in ((20, 0.3), (50, 0.6), (151, 1.0), (281, 0.8)) if count < end), 0.4)


def sentiment(post: str, reply: str) -> float:
    """Return the agreement of TextBlob's polarities. Raises ImportError without TextBlob."""
    return 1.0 - abs(_polarity(post) - _polarity(reply)) / 2


@lru_cache(maxsize=4096)
def _polarity(text: str) -> float:
    from textblob import TextBlob

    return min(1.0, max(-1.0, float(TextBlob(text).sentiment.polarity)))


def relevance(post, reply) -> float | None:
    """Return the mapped cosine of two vectors; a text without a known word has a zero vector and cosine 0."""
    if post is None or reply is None:
        return None
    size = math.sqrt(float(post @ post) * float(reply @ reply))
    cosine = float(post @ reply) / size if size else 0.0
    return (min(1.0, max(-1.0, cosine)) + 1) / 2 if math.isfinite(cosine) else None


def diversity(reply: str) -> float:
    said = words(reply)
    share = len(set(said)) / max(1, len(said))
    return share if share >= 0.5 else 0.7 * share


def punctuation(reply: str) -> float:
    ratio = sum(map(reply.count, "!?.,")) / max(1, length(reply))
    if 0.02 <= ratio <= 0.08:
        return 1.0
    return 0.7 if ratio < 0.01 else 0.8 if ratio <= 0.15 else 0.3


def engagement(reply: str) -> float:
    score, said, count = 1.0, f" {' '.join(words(reply))} ", length(reply)
    questions = len(_QUESTIONS.findall(reply))
    if questions:  # padding with questions does not pay (ours)
        score *= QUESTION if questions == 1 else 1.0 if questions == 2 else 0.5
    if len(_SENTENCE_MARKS.findall(reply)) >= 2:
        score *= TWO_SENTENCES
    if count < 30 and any(f" {phrase} " in said for phrase in GENERIC):
        score *= 0.5
    if shouted(reply):
        score *= 0.6
    return score / (QUESTION * TWO_SENTENCES)


def shouted(reply: str) -> bool:
    """Return whether a reply of more than 10 characters has capitals alone."""
    letters = [char for char in reply if char.isalpha()]  # a letter without case is not a capital
    return length(reply) > 10 and bool(letters) and all(map(str.isupper, letters))


def copied(post: str, reply: str) -> float:
    """Return the share of the reply's word triples that are in the post; a shorter reply is one pair or one word."""
    said, heard = words(reply), words(post)
    if not said:
        return float(reply.casefold() == post.casefold())
    size = min(3, len(said))
    known = {heard[i : i + size] for i in range(len(heard) - size + 1)}
    grams = [said[i : i + size] for i in range(len(said) - size + 1)]
    return sum(gram in known for gram in grams) / len(grams)
