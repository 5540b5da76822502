"""The language table: rows that rules can rely on."""

from __future__ import annotations

import ast
import importlib.util
import unicodedata
from pathlib import Path

import pytest

from rl_nmt.errors import ConfigError
from rl_nmt.guards.gates import verdict
from rl_nmt.text.languages import ENGLISH, LANGUAGES, TAMIL, WMT24PP, bcp47, language, wmt24pp_code
from rl_nmt.text.unicode import script_share


@pytest.mark.parametrize("row", LANGUAGES.values(), ids=LANGUAGES)
def test_a_row_is_written_as_rules_read_it(row):
    """Rules compare with folded NFC text, so a stem in any other form would never match."""
    cells = row.numerals
    stems = [stem for stem, _ in (*row.sounds, *row.latin_letters, *row.translated, *row.obliques)]
    stems += [stem for stem, _ in (*cells.before, *cells.letters)]
    stems += [
        stem for words in (cells.words, cells.bases, cells.prefixes, cells.hints, cells.months) for stem, _ in words
    ]
    stems += [stem for stem, _ in (*cells.scales, *cells.scale_bases)]
    for words in (
        row.function_words,
        row.connectors,
        row.abbreviations,
        row.headings,
        row.quotatives,
        row.opener_topics,
        row.noises,
        row.programs,
        row.command_nouns,
        row.unfinished,
        row.common_capitals,
        row.name_endings,
        row.name_prefixes,
        row.endings,
        row.acronyms,
        row.species,
        row.labels,
        row.meta,
        row.meta_topics,
        row.openers,
        row.notes,
        row.note_topics,
        cells.endings,
        cells.nouns,
        cells.doubts,
        cells.minus,
        cells.joins,
        cells.between,
        cells.afternoon,
        cells.percent,
    ):
        stems += words
    for stem in stems:
        assert stem and stem == unicodedata.normalize("NFC", stem).casefold().strip(), stem
    assert all(len(pair) == 2 for pair in row.quotes) and not row.closing & row.opening
    assert not set(row.end_marks) & {*"".join(row.quotes), *" ,:"}
    low, high = row.length_limits
    assert low < -row.length_tolerance and row.length_tolerance < high


def test_every_consonant_has_a_sound():
    tamil = {chr(c) for c in range(0x0B95, 0x0BBA) if unicodedata.category(chr(c)) == "Lo"}
    assert tamil <= {grapheme for grapheme, _ in TAMIL.sounds}
    assert set("bcdfghjklmnpqrstvwxyz") <= {grapheme for grapheme, _ in ENGLISH.sounds}
    for row in (TAMIL, ENGLISH):  # consonants, a and y only at the start, and vowels
        assert {c for _, sounds in row.sounds for c in sounds} <= set("akstpmnrlvy|-AEIOUWX*"), row.code


def test_independent_vowels():
    assert set(TAMIL.vowels) == {chr(c) for c in range(0x0B85, 0x0B95) if unicodedata.name(chr(c), "")}


def test_rows_are_keys():
    assert len({TAMIL, ENGLISH, LANGUAGES["ta"]}) == 2


# --- the other target languages of WMT24++ -------------------------------------------------------------

# One plain sentence each, "The rain has stopped.", written by hand.
RAIN = {
    "ar": "لقد توقف المطر.",
    "bg": "Дъждът спря.",
    "bn": "বৃষ্টি থেমে গেছে।",
    "ca": "Ha parat de ploure.",
    "cs": "Déšť už ustal.",
    "da": "Det er holdt op med at regne.",
    "de": "Der Regen hat aufgehört.",
    "el": "Η βροχή σταμάτησε.",
    "es": "Ha dejado de llover.",
    "et": "Vihm on lakanud.",
    "fa": "باران بند آمده است.",
    "fi": "Sade on lakannut.",
    "fil": "Tumigil na ang ulan.",
    "fr": "La pluie a cessé.",
    "gu": "વરસાદ બંધ થઈ ગયો છે.",
    "he": "הגשם כבר פסק לגמרי.",
    "hi": "बारिश रुक गई है।",
    "hr": "Kiša je prestala padati.",
    "hu": "Elállt az eső.",
    "id": "Hujan sudah berhenti.",
    "is": "Það er hætt að rigna.",
    "it": "Ha smesso di piovere.",
    "ja": "雨がやみました。",
    "kn": "ಮಳೆ ನಿಂತಿದೆ.",
    "ko": "비가 그쳤습니다.",
    "lt": "Lietus liovėsi.",
    "lv": "Lietus ir mitējies.",
    "ml": "മഴ നിന്നിരിക്കുന്നു.",
    "mr": "पाऊस थांबला आहे.",
    "nl": "De regen is opgehouden.",
    "no": "Det har sluttet å regne.",
    "pa": "ਮੀਂਹ ਰੁਕ ਗਿਆ ਹੈ।",
    "pl": "Deszcz przestał padać.",
    "pt": "A chuva parou.",
    "ro": "Ploaia s-a oprit.",
    "ru": "Дождь прекратился.",
    "sk": "Dážď už ustal.",
    "sl": "Dež je ponehal.",
    "sr": "Киша је престала.",
    "sv": "Det har slutat regna.",
    "sw": "Mvua imekatika sasa.",
    "ta": "மழை நின்றுவிட்டது.",
    "te": "వర్షం ఆగిపోయింది.",
    "th": "ตอนนี้ฝนหยุดตกแล้วนะ",
    "tr": "Yağmur durdu artık.",
    "uk": "Дощ припинився.",
    "ur": "بارش رک گئی ہے۔",
    "vi": "Trời đã tạnh mưa rồi.",
    "zh": "雨已经停了。",
    "zu": "Imvula isimile manje.",
}


def test_every_target_of_wmt24pp_has_a_row():
    assert len(WMT24PP) == len(set(WMT24PP)) == 55
    assert {code.split("_")[0] for code in WMT24PP} == set(RAIN)
    for code in WMT24PP:
        assert language(code).code in (code, code.split("_")[0]), code
        assert wmt24pp_code(code) == code and bcp47(code) == code.replace("_", "-")


def test_nllb_knows_the_codes():
    """Against the list in transformers' own tokenizer, read from its file."""
    folder = Path(importlib.util.find_spec("transformers").submodule_search_locations[0])
    tree = ast.parse((folder / "models/nllb/tokenization_nllb.py").read_text(encoding="utf-8"))
    known = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert len([name for name in known if len(name) == 8 and name[3] == "_"]) > 190
    assert [row.code for row in LANGUAGES.values() if row.nllb not in known] == []


@pytest.mark.parametrize("code", RAIN)
def test_a_translation_passes_and_its_source_does_not(code):
    source, row = "The rain has stopped.", language(code)
    assert verdict(source, RAIN[code], row) is None
    assert script_share(RAIN[code], row) == 1.0
    assert verdict(source, source, row) == "copy"
    assert verdict(source, "", row) == "empty"
    assert verdict(source, f"{row.name}: {RAIN[code]}", row) == "echo"
    assert verdict(source, " ".join([RAIN[code]] * 9), row) in ("loop", "length", "preamble")


@pytest.mark.parametrize("code", sorted(set(RAIN) - {code for code in RAIN if "Latin" in language(code).script}))
def test_another_script_does_not_pass(code):
    other = "მხოლოდ ქართული ასოები."
    assert verdict("The rain has stopped.", other, language(code)) == "script"
    assert verdict("The rain has stopped.", "Dr Rgn ht fghrt.", language(code)) == "script"


TRANSLATIONS = [
    (
        "ko",
        "NASA said the rocket carried 12 satellites into orbit.",
        "NASA는 로켓이 위성 12기를 궤도에 올렸다고 밝혔다.",
    ),
    ("ko", 'He said: "I will not come back."', '그는 "다시는 돌아오지 않겠다"라고 말했다.'),
    ("ko", "Note: the shop is closed on Sundays.", "참고: 이 가게는 일요일에 문을 닫습니다."),
    (
        "ko",
        "The committee will publish its final report on Monday, after months of delay.",
        "위원회는 몇 달간의 지연 끝에 월요일에 최종 보고서를 발표할 예정이다.",
    ),
    ("de", "He said: never again.", "Er sagte: nie wieder."),
    (
        "de",
        "The committee will publish its final report on Monday, after months of delay.",
        "Das Komitee wird seinen Abschlussbericht nach monatelanger Verzögerung am Montag veröffentlichen.",
    ),
    ("zh", "NASA said the rocket carried 12 satellites into orbit.", "美国宇航局称，火箭将12颗卫星送入轨道。"),
    ("zh", 'He said: "I will not come back."', "他说：“我不会回来了。”"),
    (
        "zh",
        "The committee will publish its final report on Monday, after months of delay.",
        "在推迟数月之后，委员会将于周一发布最终报告。",
    ),
    (
        "zh",
        "Although the weather was bad the whole week, we nevertheless had a wonderful time at the seaside.",
        "虽然整周天气不好，我们在海边仍玩得很开心。",
    ),
    ("th", "The rain has stopped.", "ฝนหยุดตกแล้ว"),
    ("de", "The hotel restaurant was closed.", "Das Hotelrestaurant war geschlossen."),
    ("de", "We met in Berlin in April.", "Wir trafen uns im April in Berlin."),
    ("fr", "The situation is important for the population.", "La situation est importante pour la population."),
    ("ja", "We ate ramen at a restaurant in Tokyo.", "私たちは東京のレストランでラーメンを食べました。"),
    ("ar", "Where are you going?", "إلى أين تذهب؟"),
    ("sr", "The rain has stopped.", "Kiša je prestala."),
    ("uk", "The family had five computers and an object.", "Сімʼя мала пʼять компʼютерів і обʼєкт."),
]


@pytest.mark.parametrize(("code", "source", "translation"), TRANSLATIONS)
def test_no_rule_fires_on_a_translation(code, source, translation):
    assert verdict(source, translation, language(code)) is None


@pytest.mark.parametrize(
    ("code", "translation"),
    [
        ("de", "Er sagte: „Ich komme.“"),
        ("de", "Er sagte: »Ich komme.«"),
        ("sl", "Rekel je: »Pridem.«"),
        ("cs", "Řekl: „Já přijdu.“"),
        ("is", "Hann sagði: „Ég kem.“"),
        ("sr", "Рекао је: „Долазим.“"),
        ("uk", "Він сказав: „Я йду.“"),
        ("fi", "Hän sanoi: ”Minä tulen.”"),
        ("fr", "Il a dit : « Je viens. »"),
        ("hu", "Azt mondta: „Jövök.”"),
        ("he", "הוא אמר: „אני בא.“"),
        ("zh", "他说：“我来了。“"),  # the opening mark, typed for the closing one
        ("ta", "அவர் „நான் வருகிறேன்.“"),
        ("hi", "उसने कहा: “मैं आ रहा हूँ।”"),
        ("el", "Είπε: «Έρχομαι.»"),
    ],
)
def test_quotation_marks_close_as_the_language_writes_them(code, translation):
    source, row = 'He said: "I am coming."', language(code)
    assert verdict(source, translation, row) is None
    opened = translation[: next(i for i, mark in enumerate(translation) if mark in "„“»”«") + 1]
    if opened[-1] in row.opening:
        assert verdict("He is in.", opened, row) == "truncated"
    said = translation[len(opened) - 1 :]
    assert verdict("I am coming.", said, row) == "preamble", "quotation marks around the whole"


def test_end_marks_are_the_rows():
    assert verdict("Where is it?", "Πού είναι;", language("el")) is None
    assert verdict("Where is it now?", "Wo ist es;", language("de")) == "truncated"
    assert verdict("Where is it?", "کہاں ہے؟", language("ur")) is None
    assert verdict("बारिश रुक गई है और वह घर आया।", "The rain has", ENGLISH, language("hi")) == "truncated"
    assert verdict("雨停了。他回家了。", "The rain has stopped.\nHe went home.", ENGLISH, language("zh")) is None


def test_a_foreign_letter_weighs_less_where_a_character_is_a_word():
    assert (
        verdict("Flake was the central figure in the drama.", "弗雷克（Flake）是这出戏的中心人物。", language("zh"))
        is None
    )
    assert verdict("It was the central figure in the drama.", "它是这出 drama central figure", language("zh")) == "copy"


@pytest.mark.parametrize(
    ("code", "output", "reason"),
    [
        ("ko", "참고로 이 문장은 [INST] 입니다.", "control"),
        ("ko", "Sure! 비가 그쳤습니다.", "preamble"),
        ("ko", "번역: 비가 그쳤습니다.", "echo"),
        ("de", "Here is the translation: Der Regen hat aufgehört.", "preamble"),
        ("de", "Übersetzung: Der Regen hat aufgehört.", "echo"),
        ("zh", "雨停了。\n\n这句话的意思是不再下雨。", "preamble"),
        ("zh", "雨" * 60, "loop"),
        ("ja", "雨がやんだ。the rain has stopped", "copy"),
        ("ru", "Dozhd prekratilsya.", "script"),
        ("zh", "雨停了，", "truncated"),
        ("ja", "「雨がやみました。」", "preamble"),
        ("de", "Der Regen The rain has stopped.", "copy"),
    ],
)
def test_invalid_outputs_are_caught(code, output, reason):
    assert verdict("The rain has stopped.", output, language(code)) == reason


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("kr", ["'kr'", "use one of"]),
        ("Korean", ["'Korean'", "did you mean ko?"]),
        ("tam", ["'tam'"]),
        ("ta_Taml", ["'ta_Taml'", "did you mean ta?"]),
        ("", ["''"]),
        ("ko_KR_x", ["did you mean ko?"]),
    ],
)
def test_unknown_codes(code, parts):
    with pytest.raises(ConfigError) as caught:
        language(code, "data.target_lang")
    assert all(part in str(caught.value) for part in ["data.target_lang", *parts]), caught.value


def test_regions():
    assert language("pt_PT") is language("pt") and language("zh_TW") is not language("zh_CN")
    assert language("en_US") is ENGLISH and language(" TA-in ") is TAMIL
    assert bcp47("en") == "en" and bcp47("de_at") == "de-AT"
    for code in LANGUAGES.keys() - {"en"}:  # a bare code is evaluated on a set in its row's own language
        assert language(wmt24pp_code(code)) is language(code)
    with pytest.raises(ConfigError, match=r"^target_lang: .*pt_AO; .*pt_BR or pt_PT"):
        wmt24pp_code("pt_AO")
    with pytest.raises(ConfigError, match=r"^target_lang: WMT24.* en; .*ta_IN"):
        wmt24pp_code("en")
