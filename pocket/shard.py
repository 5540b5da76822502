"""The pocket world's web: a shard in C4's on-disk format, held-out references, and the list of its words.

C4 (Raffel et al. 2020, section 2.2) ships gzipped JSON lines with text, timestamp and url. The texts here are
grammar sentences of part "web", laid out as pages, with what C4 really has between the prose: menus,
banners, links, copyright lines, HTML entities, odd whitespace, control characters, fragments, repeated pages.
Noise never ends like a sentence unless it is plain boilerplate, so a cleaner that keeps whole sentences and
drops boilerplate finds pocket English only.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from rl_nmt.errors import ConfigError

from .corruptions import english_forms
from .grammar import MAX_WORDS, Pair, pairs

BOILERPLATE = (
    "This site uses cookies to give you the best experience.",
    "By continuing to browse you accept our cookie policy.",
    "Please enable JavaScript to view the comments.",
    "Copyright © 2019 Pocket Stories. All rights reserved.",
    "Subscribe to our newsletter and never miss a story!",
    "Read more…",
    "Click here to sign up.",
    "See our Terms of Use and Privacy Policy.",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
    "function track() { return window.id; }",
    "Powered by WordPress.",
)
FRAGMENTS = (
    "Home | About us | Contact",
    "News » Village » Today",
    "Menu",
    "Latest news &amp; stories",
    "“Stories from the village” – part two",
    "Tags: village, market, river",
    "Photos &nbsp; Videos &nbsp; Maps",
    "3 comments",
    "Previous post ← → Next post",
    "By admin, 4 min read",
    "Weather: 31 °C",
    "* * *",
)
LINKS = (
    "https://www.example.com/stories?id={}",
    "Source: http://news.example.org/{}.html",
    "Write to editor{}@example.net",
)
HIDDEN = ("\x00", "\x07", "\x08", "\x7f", "\u200b", "\ufeff", "\u00ad")
SPACES = ("  ", "   ", "\t", "\u00a0", " \u00a0")
FIRST_CRAWL = datetime(2019, 4, 18)  # C4 en was built from the April 2019 crawl


def write_shard(path: str | Path, n_documents: int, seed: int, max_words: int = MAX_WORDS) -> None:
    """Write `n_documents` C4-format documents to a .json.gz; the same bytes for the same arguments.

    About nine in ten open with a usable sentence or have one further down; the rest are too short,
    boilerplate only, or copies of an earlier page under another address. Its sentences have at most
    `max_words` words. Raises ConfigError where
    `n_documents` is below 1.
    """
    _check("n_documents", n_documents)
    raw = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        for row in _documents(n_documents, seed, max_words):
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    _write(path, raw.getvalue())


def write_references(path: str | Path, n: int, seed: int, max_words: int = MAX_WORDS) -> None:
    """Write `n` held-out pairs as JSON lines {"english", "tamil"}. Raises ConfigError where n is below 1."""
    _check("n", n)
    chosen: Iterator[Pair] = islice(pairs(seed, part="heldout", max_words=max_words), n)
    lines = [json.dumps({"english": p.english, "tamil": p.tamil}, ensure_ascii=False) for p in chosen]
    _write(path, ("\n".join(lines) + "\n").encode())


def write_words(path: str | Path, taught: Iterable[Pair]) -> None:
    """Write the English words of the sentences that the models are taught, spelled as inside a sentence, one a line."""
    names = english_forms().analyses
    words: set[str] = set()
    for pair in taught:
        first, *others = pair.english.rstrip(".?").split()
        words |= {first if first in names else first.lower(), *others}
    _write(path, ("\n".join(sorted(words)) + "\n").encode())


def _check(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}: give 1 or more")


def _write(path: str | Path, data: bytes) -> None:
    """Write whole or not at all: a reader never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(data)
    os.replace(draft, path)


def _documents(n_documents: int, seed: int, max_words: int) -> Iterator[dict[str, str]]:
    rng = random.Random(f"{seed}/shard")
    prose = (pair.english for pair in pairs(seed, part="web", max_words=max_words))
    earlier: list[str] = []  # the last pages, for copies
    when = FIRST_CRAWL
    for number in range(n_documents):
        draw = rng.random()
        if draw < 0.04 and earlier:
            text = rng.choice(earlier)
        elif draw < 0.07:
            text = rng.choice((*FRAGMENTS, next(prose).split()[0] + " …"))
        elif draw < 0.1:
            text = "\n".join([*rng.sample(BOILERPLATE, 2), _link(rng)])
        else:
            text = _page(rng, prose)
            earlier = [*earlier[-99:], text]
        when += timedelta(seconds=rng.randint(1, 300))
        slug = "-".join(text.lower().split()[:3])
        slug = "".join(c for c in slug if c.isascii() and (c.isalnum() or c == "-"))
        url = f"https://blog{rng.randint(1, 99)}.example.com/{when:%Y/%m}/{slug or 'page'}-{number}"
        yield {"text": text, "timestamp": f"{when:%Y-%m-%dT%H:%M:%SZ}", "url": url}


def _page(rng: random.Random, prose: Iterator[str]) -> str:
    """One page: perhaps a header, two to four paragraphs with noise between, perhaps a footer."""
    lines = [_noise(rng) for _ in range(rng.choice((0, 0, 0, 1, 1, 2)))]
    for _ in range(rng.randint(2, 4)):
        lines.append(_untidy(rng, " ".join(islice(prose, rng.randint(1, 3)))))
        if rng.random() < 0.2:
            lines.append(rng.choice(("", _noise(rng))))
    lines += [_noise(rng) for _ in range(rng.choice((0, 1, 2)))]
    return rng.choice(("\n", "\n", "\n", "\n\n", "\r\n")).join(lines)


def _noise(rng: random.Random) -> str:
    draw = rng.random()
    return rng.choice(BOILERPLATE) if draw < 0.45 else rng.choice(FRAGMENTS) if draw < 0.8 else _link(rng)


def _link(rng: random.Random) -> str:
    return rng.choice(LINKS).format(rng.randint(10, 9999))


def _untidy(rng: random.Random, paragraph: str) -> str:
    """Odd whitespace and invisible characters, in about one paragraph in six."""
    draw = rng.random()
    if draw > 0.16:
        return paragraph
    at = rng.choice([place for place, char in enumerate(paragraph) if char == " "])
    if draw < 0.08:
        return paragraph[:at] + rng.choice(SPACES) + paragraph[at + 1 :]
    if draw < 0.11:
        return rng.choice(SPACES) + paragraph + rng.choice(SPACES)
    return paragraph[:at] + rng.choice(HIDDEN) + paragraph[at:]
