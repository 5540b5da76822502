"""Name the words of a text that a small model was never taught, by the list next to its folder. No torch."""

from collections.abc import Mapping
from pathlib import Path

FILE = "words.txt"  # in the folder that holds the models' folders: one word a line, spelled as inside a sentence
AROUND_WORDS = "\"'`“”‘«».,;:!?…()[]{}–—-"


def known_words(*models: str) -> dict[str, str]:
    """Return the list of the first local model that has one: case-folded word → its spelling. {} without any.

    `models`: names or folders of models; those of the hub have no list.
    """
    for folder in (Path(model).expanduser() for model in models if model):
        path = folder.parent / FILE
        if folder.is_dir() and path.is_file():
            return {word.casefold(): word for word in path.read_text(encoding="utf-8").split()}
    return {}


def words_of(text: str) -> list[str]:
    """Return the words of a text, without the punctuation around them.

    >>> words_of("“Ravi’s cat,” she said …")
    ["Ravi's", 'cat', 'she', 'said']
    """
    words = (word.strip(AROUND_WORDS) for word in text.replace("’", "'").split())
    return [word for word in words if word]


def unknown_words(text: str, known: Mapping[str, str]) -> list[str]:
    """Return the words of a text that are not in `known`, each once; capitals do not matter.

    >>> unknown_words("The CAT sneezed: it sneezed!", {"the": "the", "cat": "cat", "it": "it"})
    ['sneezed']
    """
    return list(dict.fromkeys(word for word in words_of(text) if word.casefold() not in known))
