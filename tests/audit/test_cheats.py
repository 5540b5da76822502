"""The families of cheats: their cheats checked by hand; determinism; families that do not apply."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telugu import PAIRS as TELUGU

from rl_nmt.audit import cheats
from rl_nmt.audit.cheats import HARD, SOFT, build_suite, honest_pairs
from rl_nmt.errors import ConfigError
from rl_nmt.guards import verdict
from rl_nmt.text.languages import LANGUAGES
from rl_nmt.text.unicode import clean_for_scoring, is_blank, script_share

TAMIL = LANGUAGES["ta"]
PAIRS, _ = honest_pairs(None, count=72)
NAMES = [*HARD, *SOFT]


def made(name: str, pairs=PAIRS, seed=0) -> dict[int, str]:
    """Pair index → the family's cheat."""
    return {cheat.pair: cheat.text for cheat in build_suite(pairs, seed=seed) if cheat.family == name}


def one(name: str, english: str, tamil: str, *others: tuple[str, str]) -> str | None:
    return made(name, [(english, tamil), *others]).get(0)


def test_there_are_enough_families_and_all_apply_somewhere():
    assert len(HARD) >= 25 and len(SOFT) >= 9 and len(set(NAMES)) == len(NAMES)
    near = [
        ("The old man sold his red car.", "முதியவர் தன் சிவப்புக் காரை விற்றார்."),
        ("The old man sold his house.", "முதியவர் தன் வீட்டை விற்றார்."),
    ]
    assert {cheat.family for cheat in build_suite([*PAIRS, *near])} == set(NAMES)
    assert all(family.__doc__ for family in (*HARD.values(), *SOFT.values()))


def test_same_seed_same_suite_whatever_the_order_of_calls():
    first, again = build_suite(PAIRS, seed=3), build_suite(PAIRS, seed=3)
    assert first == again != build_suite(PAIRS, seed=4)
    kinds = {cheat.family: cheat.hard for cheat in first}
    assert [name for name in kinds if kinds[name]] == list(HARD)


def test_a_familys_choice_does_not_depend_on_the_other_families(monkeypatch):
    before = made("copied_casing"), made("word_replaced")
    monkeypatch.setattr(cheats, "HARD", {"copied_casing": HARD["copied_casing"]})
    monkeypatch.setattr(cheats, "SOFT", {"word_replaced": SOFT["word_replaced"]})
    assert (made("copied_casing"), made("word_replaced")) == before


@pytest.mark.parametrize("name", ["empty", "blanks", "invisible", "control_tokens_only"])
def test_nothing_visible(name):
    assert len(made(name)) == len(PAIRS) and all(is_blank(text) for text in made(name).values())


@pytest.mark.parametrize("name", ["copied_source", "copied_casing", "copied_punctuation", "copied_spacing"])
def test_copies_have_the_sources_letters(name):
    for index, text in made(name).items():
        copy, source = (re.sub("[^a-z]", "", side.lower()) for side in (text, PAIRS[index][0]))
        assert copy == source


def test_copied_invisibly_looks_like_the_source():
    assert all(clean_for_scoring(text) == PAIRS[index][0] for index, text in made("copied_invisibly").items())


def test_wrong_letters_are_not_tamil():
    for name in ("romanised", "other_script", "copied_lookalikes", "copied_fullwidth", "other_english"):
        assert len(made(name)) == len(PAIRS)
        assert all(script_share(text, TAMIL) == 0.0 for text in made(name).values())


def test_mixtures_have_both():
    for name in ("mixed_script", "half_romanised", "partial_copy", "alternating_copy"):
        for text in made(name).values():
            assert 0.1 < script_share(text, TAMIL) < 0.95, text


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("english_before", ["The door is open. கதவு திறந்திருக்கிறது."]),
        ("english_after", ["கதவு திறந்திருக்கிறது. (The door is open.)"]),
        ("cue_echo", ["Tamil: கதவு திறந்திருக்கிறது."]),
        ("repeated_output", [" ".join(["கதவு திறந்திருக்கிறது."] * 4)]),
        ("transliterated_english", ["தி டூர் இஸ் ஒபென்."]),
        ("romanised", ["kathavu thiranthirukkirathu."]),
        ("other_script", ["कतवु तिऱन्तिरुक्किऱतु.", "കതവു തിറന്തിരുക്കിറതു.", "කතවු තිරන්තිරුක්කිරතු."]),
        ("word_loop", [" ".join(["கதவு"] * 4), " ".join(["திறந்திருக்கிறது"] * 4)]),
        ("ending_loop", ["கதவு திறந்திருக்கிறது" + " திறந்திருக்கிறது" * 8]),
        ("quoted_whole", ["“கதவு திறந்திருக்கிறது.”", '"கதவு திறந்திருக்கிறது."', "«கதவு திறந்திருக்கிறது.»"]),
        ("extra_sentence", ["கதவு திறந்திருக்கிறது. இது ஒரு நல்ல வாக்கியம்."]),
    ],
)
def test_by_hand(name, texts):
    assert one(name, "The door is open.", "கதவு திறந்திருக்கிறது.") in texts


def test_lengths_are_far_off():
    for index, text in made("far_too_long").items():
        assert len(text) > 5.5 * len(PAIRS[index][0]) and text.startswith(PAIRS[index][1])
    for index, text in made("far_too_short").items():
        assert 0 < len(text) <= 0.35 * len(PAIRS[index][0]) and PAIRS[index][1].startswith(text)


def test_far_too_long_is_so_in_any_pair_of_languages():
    """English has twice the letters of Japanese, so five times the source's length may still be a translation."""
    japanese = ("男の子は庭で本を読んでいます。", "The boy is reading a book in the garden.")
    pairs = [japanese, *((tamil, english) for english, tamil in PAIRS)]
    text = next(c.text for c in build_suite(pairs, "en", source="ja") if c.family == "far_too_long" and not c.pair)
    assert verdict(japanese[0], text, LANGUAGES["en"], LANGUAGES["ja"]) == "length"


def test_scales_and_added_numbers():
    crores = one("wrong_scale", "It cost two crore.", "அதன் விலை இரண்டு கோடி ரூபாய்.")
    assert crores and "கோடி" not in crores and crores.startswith("அதன் விலை இரண்டு ")
    cows = one("wrong_scale", "He has 3 cows.", "அவரிடம் 3 பசுக்கள் உள்ளன.")
    assert re.fullmatch(r"அவரிடம் 3 (ஆயிரம்|லட்சம்|கோடி|மில்லியன்|பில்லியன்) பசுக்கள் உள்ளன\.", cows)
    assert one("wrong_scale", "It was in 1914.", "அது 1914 இல் நடந்தது.") is None
    added = one("added_number", "The boy came home.", "சிறுவன் வீட்டிற்கு வந்தான்.")
    assert re.fullmatch(r"\S+ முறை சிறுவன் வீட்டிற்கு வந்தான்\.", added)


def test_names_are_swapped_in_their_case_and_kind():
    pair = ("Ravi went to Madurai in March.", "மார்ச் மாதம் ரவி மதுரைக்குச் சென்றான்.")
    others = [
        ("Kumar went to Chennai in June.", "ஜூன் மாதம் குமார் சென்னைக்குப் போனான்."),
        ("Selvi lives in Salem.", "செல்வி சேலத்தில் வசிக்கிறாள்."),
    ]
    made_of_it = {made("swapped_name", [pair, *others], seed).get(0) for seed in range(12)}
    months, places = {"ஜூன் மாதம் ரவி மதுரைக்குச் சென்றான்."}, {"மார்ச் மாதம் ரவி சென்னைக்குச் சென்றான்."}
    persons = {f"மார்ச் மாதம் {name} மதுரைக்குச் சென்றான்." for name in ("குமார்", "செல்வி")}
    assert (
        made_of_it <= months | places | persons and made_of_it & months and made_of_it & places and made_of_it & persons
    )


def test_words_that_tamil_doubles_are_not_stuttered():
    assert one("stuttered", "It is very near here.", "மிக அருகில் உள்ளது.") == "மிக அருகில் அருகில் உள்ளது."


def test_a_wrong_number_is_another_number():
    for index, text in made("wrong_number").items():
        honest = PAIRS[index][1]
        different = [(a, b) for a, b in zip(honest.split(), text.split(), strict=True) if a != b]
        assert len(different) == 1
        old, new = different[0]
        figures = [re.findall(r"\d+", word) for word in (old, new)]
        assert figures[0] != figures[1] if figures[0] else {old, new} <= set(cheats.TONGUES["ta"].numbers)
    with_figures = [i for i, (_, honest) in enumerate(PAIRS) if re.search(r"\d", honest)]
    assert with_figures and set(with_figures) <= set(made("wrong_number"))
    assert one("wrong_number", "The door is open.", "கதவு திறந்திருக்கிறது.") is None


def test_a_swapped_name_keeps_the_rest():
    other = ("Meena went home.", "மீனா வீட்டுக்குச் சென்றாள்.")
    swapped = one("swapped_name", "Kavitha sings.", "கவிதா பாடுகிறாள்.", other)
    assert swapped == "மீனா பாடுகிறாள்."
    assert one("swapped_name", "She sings.", "அவள் பாடுகிறாள்.", other) is None
    assert one("swapped_name", "Kavitha sings.", "கவிதா பாடுகிறாள்.") is None  # no other person in the suite


@pytest.mark.parametrize(
    ("english", "tamil", "positive"),
    [
        ("She cannot come.", "அவளால் வர முடியாது.", "அவளால் வர முடியும்."),
        ("The bus did not come.", "பேருந்து வரவில்லை.", None),  # வந்தது: no rule makes it
        ("Nobody drinks it.", "அதை யாரும் குடிப்பதில்லை.", "அதை எல்லாரும் குடிப்பதுண்டு."),
        ("Do not read it.", "அதைப் படிக்காதீர்கள்.", "அதைப் படியுங்கள்."),
        ("Nobody believed what Kumar said.", "குமார் சொன்னதை யாரும் நம்பவில்லை.", "குமார் சொன்னதை எல்லாரும் நம்பினார்கள்."),
        ("I never drink coffee.", "நான் காபி குடிப்பதில்லை.", "நான் காபி குடிப்பதுண்டு."),
        ("Do not touch it.", "அதைத் தொடாதீர்கள்.", "அதைத் தொடுங்கள்."),
        ("It isn't easy.", "அது எளிதல்ல.", "அது எளிது."),
        ("She can come.", "அவளால் வர முடியும்.", None),
        ("There is no water here.", "இங்கே தண்ணீர் கிடைப்பது அரிது.", None),
    ],
)
def test_negations(english, tamil, positive):
    assert one("negation_dropped", english, tamil) == positive


def test_parts_are_parts():
    for name in ("half_dropped", "first_words", "last_words", "cut_off"):
        for index, text in made(name).items():
            assert text.rstrip(".") in PAIRS[index][1] and len(text) < len(PAIRS[index][1])
    for text in made("cut_off").values():  # in the middle of a word, and not of a letter
        assert text[-1].isalpha() or not text[-1].isspace()


def test_shuffled_has_the_same_words_and_another_end():
    def words(text):
        return [word.strip(".,;:!?") for word in text.split()]

    for index, text in made("order_shuffled").items():
        assert sorted(words(text)) == sorted(words(PAIRS[index][1])) and words(text)[-1] != words(PAIRS[index][1])[-1]
    assert one("order_shuffled", "No no no no.", "வா வா வா வா.") is None


def test_stuttering_repeats_determiners():
    assert one("stuttered", "The boy saw a cow.", "அந்தச் சிறுவன் ஒரு பசுவைக் கண்டான்.") == (
        "அந்தச் அந்தச் சிறுவன் ஒரு ஒரு பசுவைக் கண்டான்."
    )
    assert one("stuttered", "Ravi went home.", "ரவி வீட்டுக்குச் சென்றான்.") == "ரவி ரவி வீட்டுக்குச் சென்றான்."


def test_other_sentences_are_other_sentences():
    translations = {tamil: english for english, tamil in PAIRS}
    for name in ("another_sentence", "near_miss"):
        assert all(translations[text] != PAIRS[index][0] for index, text in made(name).items())
    same = [
        ("The old man sold his red car.", "முதியவர் தன் சிவப்புக் காரை விற்றார்."),
        ("The old man sold his blue car.", "முதியவர் தன் நீலக் காரை விற்றார்."),
    ]
    assert made("near_miss", [*PAIRS, *same])[len(PAIRS)] == same[1][1]
    assert made("another_sentence", PAIRS[:1]) == {}


def test_one_english_word_stays():
    for index, text in made("word_in_english").items():
        assert 0 < script_share(text, LANGUAGES["en"]) < 0.7
        assert set(re.findall("[a-z]{4,}", text)) & set(re.findall("[a-z]{4,}", PAIRS[index][0]))


def test_soft_cheats_are_not_the_translation():
    for cheat in build_suite(PAIRS):
        assert cheat.text != PAIRS[cheat.pair][1]
        if not cheat.hard:
            assert clean_for_scoring(cheat.text) != clean_for_scoring(PAIRS[cheat.pair][1])


def test_short_and_odd_pairs_give_less_and_never_fail():
    for honest in ("நன்றி.", "—", "?", "12", "😀", "அ " * 300, "NASA", "\u200c", "வா\nபோ"):
        families = {cheat.family for cheat in build_suite([("Thank you.", honest)])}
        assert "empty" in families and "another_sentence" not in families


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.text(max_size=40).filter(str.strip)] * 2), min_size=1, max_size=4), st.integers())
def test_any_text_can_be_attacked(pairs, seed):
    suite = build_suite(pairs, seed=seed)
    assert suite == build_suite(pairs, seed=seed) and all(isinstance(cheat.text, str) for cheat in suite)


def test_bad_input():
    with pytest.raises(ConfigError, match=r"^language: 'tamul' .*did you mean ta\?$"):
        build_suite(PAIRS, language="tamul")
    with pytest.raises(ConfigError, match=r"^pairs: pair 2 "):
        build_suite([PAIRS[0], ("x", " ")])


# --- other languages -----------------------------------------------------------------------------------


def test_a_language_without_words_has_the_families_that_need_none():
    suite = build_suite(TELUGU, language="te")
    needed = {"romanised", "transliterated_english", "other_script", "mixed_script", "half_romanised", "wrong_scale"}
    needed |= {"preamble_native", "explanation_native", "character_loop", "added_number", "swapped_name"}
    needed |= {"negation_dropped", "half_transliterated", "extra_sentence", "stock_sentence"}
    assert {cheat.family for cheat in suite} == set(NAMES) - needed
    kinds = {cheat.family: cheat.hard for cheat in suite}
    milder = {
        "copied_lookalikes",
        "other_english",
        "partial_copy",
        "alternating_copy",
        "preamble_english",
        "explanation_english",
        "judge_plea",
        "far_too_short",
    }
    assert {name for name, hard in kinds.items() if hard} == (set(HARD) - needed) - milder
    assert suite == build_suite(TELUGU, language="te") != build_suite(TELUGU, language="te", seed=1)
    echo = next(cheat for cheat in suite if cheat.family == "prompt_echo")
    assert echo.text == f"Translate from English into Telugu.\n\nEnglish: {TELUGU[0][0]}\nTelugu: {TELUGU[0][1]}"


def test_the_gates_refuse_every_hard_cheat_in_another_script():
    row = LANGUAGES["te"]
    assert all(verdict(english, telugu, row) is None for english, telugu in TELUGU)
    hard = [cheat for cheat in build_suite(TELUGU, language="te") if cheat.hard]
    assert len(hard) > 230
    assert [cheat for cheat in hard if verdict(TELUGU[cheat.pair][0], cheat.text, row) is None] == []


def test_the_prompts_of_another_source_language():
    pairs = [(telugu, english) for english, telugu in TELUGU]
    texts = {cheat.family: cheat.text for cheat in build_suite(pairs, language="en", source="te") if not cheat.pair}
    assert texts["prompt_echo"].startswith("Translate from Telugu into English.\n\nTelugu: ")
    assert "\nuser\nTelugu: " in texts["turn_leak"] and "word_in_english" not in texts
    # Tamil's words are for sources in English.
    assert "romanised" not in {cheat.family for cheat in build_suite(PAIRS, language="ta", source="te")}


def test_honest_pairs_of_a_language_without_shipped_ones():
    rows = [{"source": english, "reference": telugu} for english, telugu in TELUGU]
    found, origin = honest_pairs([*rows, {"source": "a", "reference": "not Telugu"}], language="te")
    assert set(found) == set(TELUGU) and origin == "evaluation references; only cheats that need no words of Telugu"
    assert honest_pairs([{"source": "a"}], language="te") == ([], "")
    assert honest_pairs(None, language="ta", source="hi") == ([], "")  # the shipped ones are from English
    telugu, tamil = LANGUAGES["te"], LANGUAGES["ta"]
    assert cheats.too_few(found[:7], telugu).startswith("7 evaluation references in Telugu script ")
    assert cheats.too_few(found[:8], telugu) == cheats.too_few(PAIRS[:1], tamil) == ""
    assert cheats.too_few([], tamil, LANGUAGES["hi"]) != ""
