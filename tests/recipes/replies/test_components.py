"""Tables of the components of the heuristic reward, at every boundary."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.replies import components
from recipes.replies.components import relevance

BASE = 1 / (1.1 * 1.05)  # engagement without any bonus


@pytest.mark.parametrize(
    ("count", "score"),
    [(3, 0.3), (19, 0.3), (20, 0.6), (49, 0.6), (50, 1.0), (150, 1.0), (151, 0.8), (280, 0.8), (281, 0.4), (500, 0.4)],
)
def test_length(count, score):
    assert components.length_score("a" * count) == score
    assert components.length_score("க" * count + "\u200b" * 9) == score


@pytest.mark.parametrize(
    ("marks", "score"),
    [(0, 0.7), (9, 0.7), (10, 0.8), (19, 0.8), (20, 1.0), (80, 1.0), (81, 0.8), (150, 0.8), (151, 0.3), (1000, 0.3)],
)
def test_punctuation_per_thousand_characters(marks, score):
    assert components.punctuation("a" * (1000 - marks) + ("!?.," * 250)[:marks]) == score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("one two three four", 1.0),
        ("Bus, bus!", 0.5),
        ("bus BUS bus", 0.7 / 3),
        ("", 0.0),
        ("😀 !!! ?", 0.0),
        ("it it's", 1.0),
        ("நல்ல நாள் நல்ல நாள்", 0.5),
        ("நல்ல நாள், நண்பரே", 1.0),
    ],
)
def test_diversity(reply, score):
    assert components.diversity(reply) == pytest.approx(score)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("We walked along the river all day", BASE),
        ("Did you walk along the river all day?", BASE * 1.1),
        ("We walked along the river. It was a good day.", BASE * 1.05),
        ("We walked along the river!!!", BASE),
        ("We paid 2.50 and 3.75 for the two tickets", BASE),
        ("We walked. Did you walk too, along the river?", 1.0),
        ("Did you walk?! Along the river??", BASE * 1.05),
        ("Did you walk? Along the river? All day?", BASE * 1.05 * 0.5),
        ("Agreed!", BASE * 0.5),
        ("So TRUE, friend", BASE * 0.5),
        ("I know that song", BASE),
        ("No more songs", BASE * 0.5),
        ("nice " + "x" * 24, BASE * 0.5),
        ("nice " + "x" * 25, BASE),
        ("GOOD WORKS", BASE),
        ("GOOD WORKED", BASE * 0.6),
        ("WELL DONE 2 DAY 😀", BASE * 0.6),
        ("நன்றி நண்பர்களே வணக்கம்", BASE),
        ("நன்றி நண்பர்களே BBC", BASE),
    ],
)
def test_engagement(reply, score):
    assert components.engagement(reply) == pytest.approx(score, abs=1e-12)


def test_both_bonuses_of_engagement_reach_exactly_1():
    assert components.engagement("We walked. Did you walk too, along the river?") == 1.0


@pytest.mark.parametrize(
    ("post", "reply", "share"),
    [
        ("The bus was late today.", "THE BUS, was late today!", 1.0),
        ("The bus was late today.", "The bus was late for me", 0.5),
        ("The bus was late today.", "today late was bus the", 0.0),
        ("That is so true.", "So true!", 1.0),
        ("So it is true.", "So true!", 0.0),
        ("That is so true.", "True", 1.0),
        ("That is so true.", "Right", 0.0),
        ("😀🎉🎉", "😀🎉🎉", 1.0),
        ("That is so true.", "😀🎉🎉", 0.0),
        ("நல்ல நாள் இன்று எனக்கு", "நல்ல நாள் இன்று உனக்கு", 0.5),
    ],
)
def test_copied(post, reply, share):
    assert components.copied(post, reply) == share


@pytest.mark.parametrize(
    ("post", "reply", "score"), [(1, -1, 0.0), (0.5, 0.0, 0.75), (-0.3, -0.3, 1.0), (0.2, 0.6, 0.8)]
)
def test_sentiment(monkeypatch, post, reply, score):
    monkeypatch.setattr(components, "_polarity", {"post": post, "reply": reply}.get)
    assert components.sentiment("post", "reply") == pytest.approx(score)


def test_sentiment_is_that_of_textblob():
    pytest.importorskip("textblob")
    assert components.sentiment("lol", "I hate this awful day") == pytest.approx(1 - (0.8 + 0.9) / 2)  # its lexicon
    assert components.sentiment("நல்ல நாள்", "வணக்கம்") == 1.0


def test_relevance_is_a_mapped_cosine_within_its_bounds():
    rng = np.random.default_rng(0)
    x, y = np.array([3.0, 0.0]), np.array([0.0, 2.0])
    assert [relevance(x, other) for other in (x, y, -x, 0 * x)] == [1.0, 0.5, 0.0, 0.5]
    assert all(0.0 <= relevance(v, f * v) <= 1.0 for v in rng.standard_normal((500, 7)) for f in (3.3, -1.7))
    assert relevance(x, np.array([np.nan, 1.0])) is None and relevance(None, x) is None
