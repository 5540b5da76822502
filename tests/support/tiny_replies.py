"""Posts with good replies, and a bigram model that tells a sentence from its words in random order."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

# Replies of about 80 characters, which take the post up and ask something.
PAIRS = [
    (
        "We adopted a puppy from the shelter last week and she already sleeps on my bed.",
        "What a lovely puppy story! I hope she likes the bed. Did the shelter tell you her name?",
    ),
    (
        "Our bus was late again this morning, so I walked five miles to work in the rain.",
        "I am sorry about the bus! A walk in the rain is hard. Did you get to work on time?",
    ),
    (
        "The tomatoes in my garden are finally red after a long and cloudy summer.",
        "I love red tomatoes from the garden! What will you make with them this summer?",
    ),
    (
        "My daughter played her first piano concert last night and did not miss a note.",
        "What a lovely night! I hope you are proud of your daughter. Did she choose the piano herself?",
    ),
    (
        "The new bakery on our street sells warm bread at six in the morning every day.",
        "I love warm bread in the morning! Is the bakery open on Sunday? I hope I will go there.",
    ),
    (
        "We climbed the mountain before sunrise and saw the whole valley under the clouds.",
        "What a lovely view of the valley! Was the mountain hard to climb before sunrise?",
    ),
    (
        "My laptop died in the middle of the exam and I lost an hour of writing.",
        "I am sorry about the laptop! Did you get more time for the exam? I hope they tell you soon.",
    ),
    (
        "The library gave me a card today and I borrowed six books about the sea.",
        "I love books about the sea! What will you read first? The library is a lovely place.",
    ),
]
ELSEWHERE = (
    "My cousin fixed the kitchen sink. What will you cook with the new stove on Sunday?"  # fluent, about no post
)

_SEEN = """
What a lovely garden! I hope you like it there. Did you make it yourself?
What a lovely view of the sea! Was it hard to get there in the morning?
I am sorry about the rain! I hope you are well. Did they tell you the time?
I am sorry about the car! A day in the rain is hard. Did you get home on time?
I love a walk in the morning! Is the park open on Sunday? I hope I will go soon.
I love warm soup from the kitchen! What will you make with the rest this week?
I love the books about the mountain! What will you read on the train?
The library is a lovely place. Is the card from the library free? I love that.
What a lovely puppy! I hope she likes the garden. Did you choose her name?
What a lovely story! I hope you are proud of your son. Did he choose the song himself?
I love red tomatoes! What will you cook with them? I love stories about the summer.
I hope they tell you soon. Did you get more help for the exam? I love the piano.
My cousin fixed the car. What will you do with the new bike on Sunday?
My cousin fixed the kitchen sink. I love the new stove. What will you cook first?
The bus was late again. A walk in the rain is hard to love. Was the bus full?
What a lovely morning! Was the valley hard to see before sunrise? Did you get to the top?
She already sleeps on my bed. We walked to work in the rain. The books are about the sea.
The new bakery on our street is open. My daughter played her first concert last night.
My laptop died in the middle of the day. We saw the whole valley from the top.
"""
HELD_OUT = [  # further human replies, for the scale
    "I love the sea in the morning! What will you do there this summer?",
    "I am sorry about the exam! I hope they tell you more. Did you get help on time?",
    "What a lovely concert! I hope your daughter likes the piano. Did she choose the song?",
    "I love warm bread from the bakery! Is it open on Sunday?",
    "What a lovely place! Was the mountain hard to see in the rain?",
    "I hope you like the books from the library. What will you read first?",
    "My cousin fixed the laptop. Did you get more time for the work?",
    "I am sorry about the garden! A summer in the rain is hard.",
]


class Bigrams:
    """Mean log-probability of a reply's words and marks, in nats: bigrams, smoothed by words and a uniform share."""

    def __init__(self, text: str = _SEEN):
        said = [self.tokens(line) for line in text.strip().splitlines()]
        self.single = Counter(word for line in said for word in line)
        self.double = Counter(pair for line in said for pair in pairwise(line))
        self.before = Counter(word for line in said for word in line[:-1])

    @staticmethod
    def tokens(text: str) -> list[str]:
        return ["<s>", *re.findall(r"\w+(?:'\w+)?|[^\w\s]", text.lower()), "</s>"]

    def __call__(self, posts: list[str], replies: list[str]) -> list[float | None]:
        return [self.mean(reply) for reply in replies]

    def mean(self, text: str) -> float:
        total = sum(self.single.values())
        steps = [
            0.8 * self.double[a, b] / max(1, self.before[a]) + 0.19 * self.single[b] / total + 0.01 / 10_000
            for a, b in pairwise(self.tokens(text))
        ]
        return sum(map(math.log, steps)) / len(steps)
