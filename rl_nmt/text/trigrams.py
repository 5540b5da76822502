"""Check whether texts consist of known word trigrams: a measure of fluency that no model learns. No torch."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rl_nmt.errors import ConfigError, describe

WORDS = 3


def grams(text: str) -> Iterator[int]:
    """Yield a 64-bit hash for each word trigram of a text; one, padded, where it has fewer than three words.

    Words are what whitespace separates, as they are. The hash is blake2b's, the same in every process.
    """
    words = text.split()
    words += [""] * (WORDS - len(words))
    for at in range(len(words) - WORDS + 1):
        gram = "\n".join(words[at : at + WORDS])
        yield int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "big")


def write_table(path: str | Path, texts: Iterable[str]) -> None:
    """Write the trigrams of `texts` to an .npy file: their hashes, sorted, uint64."""
    found = {gram for text in set(texts) for gram in grams(text)}
    with Path(path).open("wb") as file:
        np.save(file, np.array(sorted(found), dtype=np.uint64))


class KnownTrigrams:
    """Whether every word trigram of a text is in a table of `write_table`. Picklable."""

    __name__ = "known_trigrams"

    def __init__(self, table: np.ndarray):
        """`table`: (N,) uint64, sorted."""
        self.table = table

    @classmethod
    def load(cls, path: str | Path, argument: str) -> "KnownTrigrams":
        """Read a table. Raises ConfigError, which names the setting `argument`, for a file that is not one."""
        try:
            table = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ConfigError(f"{argument}: {path} does not load ({describe(error)}); write it again") from error
        if not isinstance(table, np.ndarray) or table.dtype != np.uint64 or table.ndim != 1 or not len(table):
            raise ConfigError(f"{argument}: {path} is not a table of word trigrams; write one with write_table")
        return cls(table)

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Return 1.0 for each text whose every trigram is in the table, else 0.0."""
        return [float(self.has(np.array(list(grams(text)), dtype=np.uint64))) for text in texts]

    def has(self, found: np.ndarray) -> bool:
        places = np.searchsorted(self.table, found).clip(max=len(self.table) - 1)
        return bool((self.table[places] == found).all())
