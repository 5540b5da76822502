"""Gates: invalid outputs are named, translations pass."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_texts import HONEST, ODD, SOURCE

from rl_nmt.guards.gates import REASONS, verdict
from rl_nmt.text.languages import ENGLISH, TAMIL

# --- verdict: with the source -----------------------------------------------------------------------

NO_TRANSLATION = [
    # copy
    (SOURCE, "copy"),
    (SOURCE.upper(), "copy"),
    (SOURCE.replace(" ", "  ").replace(".", "!!"), "copy"),
    ("the boy, reads; a good book - in the garden", "copy"),
    ("The boy reads a good " + HONEST, "copy"),
    (HONEST + " " + SOURCE, "copy"),
    ("தி பாய் ரீட்ஸ் எ குட் புக் இன் தி கார்டன்.", "copy"),
    # script
    ("Siruvan thottaththil oru nalla puththagam padikkiraan.", "script"),
    ("लड़का बगीचे में एक अच्छी किताब पढ़ता है।", "script"),
    ("ළමයා උද්‍යානයේ පොතක් කියවයි.", "script"),
    ("சிறுவன் തോട്ടത്തിൽ ஒரு நல்ல புத்தகம் படிக்கிறான்.", "script"),
    ("சிறுவன் garden-ல் ஒரு nice book padikkiraan.", "script"),
    ("boy, book, garden", "copy"),
    # glued
    ("Great work there " + HONEST + " " + HONEST.replace("நல்ல", "சிறந்த"), "preamble"),
    ("See below " + HONEST, "glued"),
    (HONEST + " thanks all", "glued"),
    # echo
    ("Tamil: " + HONEST, "echo"),
    ("English: x\nTamil: " + HONEST, "echo"),
    ("தமிழ்: " + HONEST, "echo"),
    ("model\n" + HONEST, "echo"),
    # preamble
    ("Here is the translation: " + HONEST, "preamble"),
    ("Sure! " + HONEST, "preamble"),
    ("மொழிபெயர்ப்பு: " + HONEST, "preamble"),
    ("இதோ உங்கள் மொழிபெயர்ப்பு: " + HONEST, "preamble"),
    ("நிச்சயமாக! " + HONEST, "preamble"),
    ("இதன் மொழிபெயர்ப்பு பின்வருமாறு " + HONEST, "preamble"),
    (HONEST + " (குறிப்பு: இது நேரடியானது.)", "preamble"),
    (HONEST + " விளக்கம்: சிறுவன் என்றால் பையன்.", "preamble"),
    (HONEST + "\nNote: a literal rendering.", "preamble"),
    ('"' + HONEST + '"', "preamble"),
    ("“" + HONEST + "”", "preamble"),
    ("'" + HONEST + "'", "preamble"),
    ("**" + HONEST + "**", "preamble"),
    ("1. " + HONEST, "preamble"),
    (HONEST + "\n\nஅவன் மகிழ்ச்சியாக இருக்கிறான்.", "preamble"),
    # loop
    (HONEST + " " + HONEST, "loop"),
    ("புத்தகம் புத்தகம் புத்தகம் படிக்கிறான்.", "loop"),
    (HONEST[:-1] + "ன்" * 30, "loop"),
    # length
    ("ஆம்.", "length"),
    ("சிறுவன்.", "length"),
    (
        HONEST + " அவன் வீட்டிற்குச் சென்று அம்மாவிடம் கதை சொன்னான், பிறகு நண்பர்களுடன் விளையாடிவிட்டு தாமதமாகத் "
        "தூங்கினான்; காலையில் எழுந்து பள்ளிக்குப் புறப்பட்டான்.",
        "length",
    ),
    # truncated
    ("சிறுவன் தோட்டத்தில் ஒரு நல்ல புத்தகம் மற்றும்", "truncated"),
    ("சிறுவன் தோட்டத்தில் ஒரு நல்ல புத்தகம்,", "truncated"),
    ("சிறுவன் தோட்டத்தில் ஒரு", "truncated"),
    ("சிறுவன் தோட்டத்தில் ஒரு நல்ல பு", "truncated"),
    # control
    (HONEST + "<end_of_turn>", "control"),
    (HONEST + "<|im_end|>", "control"),
    ("tam_Taml " + HONEST, "control"),
    ("<2ta> " + HONEST, "control"),
    ("<think>" + HONEST, "control"),
]


@pytest.mark.parametrize(("output", "reason"), NO_TRANSLATION)
def test_invalid_outputs_are_gated(output, reason):
    assert verdict(SOURCE, output, TAMIL) == reason


TRANSLATIONS = [
    (SOURCE, HONEST),
    ("Yes.", "ஆம்."),
    ("No!", "இல்லை!"),
    ("Of course!", "நிச்சயமாக!"),
    ("Sure! I'll come.", "நிச்சயமாக! நான் வருகிறேன்."),
    ("Here is the book.", "இதோ புத்தகம்."),
    ("Note: the office is closed.", "குறிப்பு: அலுவலகம் மூடப்பட்டுள்ளது."),
    ("Translate this page into Tamil.", "இந்தப் பக்கத்தைத் தமிழில் மொழிபெயர்க்கவும்."),
    ("The Tamil translation was published: at last.", "தமிழ் மொழிபெயர்ப்பு வெளியானது: கடைசியில்."),
    ("User: the one who pays.", "பயனர்: பணம் செலுத்துபவர்."),
    ("No, no, no!", "இல்லை, இல்லை, இல்லை!"),
    ("1. Open the file.", "1. கோப்பைத் திறக்கவும்."),
    ("# Introduction", "# அறிமுகம்"),
    ("<b>Warning</b>", "<b>எச்சரிக்கை</b>"),
    ('"I am here."', '"நான் இங்கே இருக்கிறேன்."'),
    ('He said, "I am here."', '"நான் இங்கே இருக்கிறேன் என்று அவர் கூறினார்."'),
    ("Visit https://a.in/b or mail x@y.org.", "https://a.in/b ஐப் பாருங்கள் அல்லது x@y.orgக்கு எழுதுங்கள்."),
    ("She shops at Marks and Spencer or Boots.", "அவர் Marks and Spencer, Boots கடைகளில் வாங்குகிறார்."),
    ("NASA launched the Hubble telescope.", "NASA ஹப்பிள் தொலைநோக்கியை ஏவியது."),
    ("It uses artificial intelligence.", "இது செயற்கை நுண்ணறிவை (AI) பயன்படுத்துகிறது."),
    ("Use the `print()` function in Python.", "Python-ல் `print()` செயல்பாட்டைப் பயன்படுத்தவும்."),
    ("I bought a bus ticket.", "நான் பஸ் டிக்கெட் வாங்கினேன்."),
    ("It runs at 10 kph.", "இது 10 kph வேகத்தில் ஓடுகிறது."),
    ("Thank you.\nGood bye.", "நன்றி.\n\nபோய் வருகிறேன்."),
    ("It is <unk> here.", "இங்கே <unk> உள்ளது."),
    ("Dear customers,", "அன்பான வாடிக்கையாளர்களே,"),
    ("Slowly, slowly he came.", "மெல்ல மெல்ல வந்தான்"),
    ("42", "42"),
    ("https://a.in/b", "https://a.in/b"),
    ("The word नमस्ते means hello.", "नमस्ते என்ற சொல்லுக்கு வணக்கம் என்று பொருள்."),
]


@pytest.mark.parametrize(("source", "output"), TRANSLATIONS)
def test_translations_pass(source, output):
    assert verdict(source, output, TAMIL) is None


EXCUSED = [
    # labels
    ("Tip: use cold water.", "குறிப்பு: குளிர்ந்த நீரைப் பயன்படுத்தவும்."),
    ("NB: doors close at 8.", "குறிப்பு: கதவுகள் 8 மணிக்கு மூடப்படும்."),
    ("N.B.: the shop is closed.", "குறிப்பு: கடை மூடப்பட்டுள்ளது."),
    ("Clarification: the fee is refundable.", "விளக்கம்: கட்டணம் திருப்பித் தரப்படும்."),
    ("We close early today (please mind: no tea).", "இன்று சீக்கிரம் மூடுகிறோம் (குறிப்பு: தேநீர் இல்லை)."),
    ("English: 40 %, Tamil: 60 %.", "தமிழ்: 60 %, ஆங்கிலம்: 40 %."),
    # openers
    ("Hey guys, today we cook.", "வணக்கம்! இன்று நாம் சமைக்கலாம்."),
    ("Definitely, he will come.", "கண்டிப்பாக! அவர் வருவார்."),
    ("All right, let us go.", "சரி! போகலாம்."),
    ("Look, the moon has risen.", "இதோ! நிலா உதித்துவிட்டது."),
    ("He read Great Expectations.", "Great Expectations நாவலை அவர் படித்தார்."),
    # commands
    ("Run the export command.", "export கட்டளையை இயக்கவும்."),
    ("Open report.pdf now.", "இப்போது report.pdf ஐத் திறக்கவும்."),
    ("Type regsvr32.exe ole32.dll and press Enter.", "regsvr32.exe ole32.dll என தட்டச்சு செய்து Enter ஐ அழுத்தவும்."),
    ("Run git commit and press enter.", "git commit இயக்கி என்டர் விசையை அழுத்தவும்."),
    ("URL must start with http:// or https://", "URL http:// அல்லது https:// உடன் தொடங்க வேண்டும்"),
    ("Babylon dictionaries are single .bgl files.", "Babylon அகராதிகள் தனி .bgl கோப்புகள் ஆகும்."),
    ("Save it as notes.txt.", "அதை notes.txt-ஆகச் சேமிக்கவும்."),
    # brands that open a sentence
    ("Python is a programming language.", "Python ஒரு நிரலாக்க மொழி."),
    ("Wikipedia is free.", "Wikipedia இலவசம்."),
    ("Netflix raised its prices.", "Netflix தன் கட்டணத்தை உயர்த்தியது."),
    # species, titles, acronyms that are small words
    ("The tiger (Panthera tigris) lives here.", "புலி (Panthera tigris) இங்கே வாழ்கிறது."),
    ("Escherichia coli causes illness.", "Escherichia coli நோயை உண்டாக்குகிறது."),
    ("Neem is Azadirachta indica.", "வேம்பு என்பது Azadirachta indica ஆகும்."),
    ("He loves The Lord of the Rings.", "அவருக்கு தி லார்ட் ஆஃப் தி ரிங்ஸ் மிகவும் பிடிக்கும்."),
    ("She read The Silence of the Lambs.", "அவள் தி சைலன்ஸ் ஆஃப் தி லாம்ப்ஸ் படித்தாள்."),
    ("We saw The Lion in the Forest.", "நாங்கள் தி லயன் இன் தி ஃபாரஸ்ட் பார்த்தோம்."),
    ("The WHO met the US group.", "WHO அமைப்பு US குழுவைச் சந்தித்தது."),
    # complete in a word or two
    ("Thank you.", "நன்றி"),
    ("I do not know.", "தெரியாது"),
    ("Please sit here.", "அமருங்கள்"),
    # about translating
    ("G. U. Pope put the Tirukkural into English.", "ஜி. யு. போப் திருக்குறளை ஆங்கிலத்தில் மொழிபெயர்த்தார்."),
    # list marks
    ("1) Wash the rice.", "1. அரிசியைக் கழுவவும்."),
    ("(2) Wash the rice.", "2) அரிசியைக் கழுவவும்."),
    ("· Wash the rice.", "• அரிசியைக் கழுவவும்."),
]


@pytest.mark.parametrize(("source", "output"), EXCUSED)
def test_the_source_excuses_in_other_words(source, output):
    assert verdict(source, output, TAMIL) is None


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("Use cold water.", "குறிப்பு: குளிர்ந்த நீரைப் பயன்படுத்தவும்."),
        ("Tip: use cold water.", "குறிப்பு: குளிர்ந்த நீரைப் பயன்படுத்தவும். (குறிப்பு: இது நேரடியானது.)"),
        ("It opens at 8:30 in the morning.", "காலை 8:30 மணிக்குத் திறக்கும். குறிப்பு: நேரம் தோராயமானது."),
        ("Guys, today we cook.", "வணக்கம்! இன்று நாம் சமைக்கலாம்."),
        ("He read a good book.", "Great! அவர் ஒரு நல்ல புத்தகம் படித்தார்."),
        ("1) Wash the rice.", "2. அரிசியைக் கழுவவும்."),
        ("Wash the rice.", "• அரிசியைக் கழுவவும்."),
    ],
)
def test_what_the_source_does_not_excuse(source, output):
    assert verdict(source, output, TAMIL) == "preamble"


@pytest.mark.parametrize(
    ("source", "output", "reason"),
    [
        ("He loves The Lord of the Rings.", "ஹி லவ்ஸ் தி லார்ட் ஆஃப் தி ரிங்ஸ்.", "copy"),
        ("The tiger lives here.", "The tiger இங்கே வாழ்கிறது.", "copy"),
        ("Tigers are animals on this basis.", "புலிகள் animals basis ஆகும்.", "copy"),
        ("Thank you for all that you did for us.", "நன்றி", "length"),
        ("He came home and slept.", "அவன் வந்து", "truncated"),
        ("He speaks English.", "அவர் ஆங்கிலம் பேசுகிறார். மொழிபெயர்ப்பு இது.", "preamble"),
    ],
)
def test_similar_outputs_are_not_excused(source, output, reason):
    assert verdict(source, output, TAMIL) == reason


def test_running_text_is_not_a_brand():
    assert verdict("Boys read good books.", "Boys read நல்ல புத்தகங்கள்.", TAMIL) == "copy"
    assert verdict("Boys read good books.", "boys நல்ல books read.", TAMIL) == "copy"


def test_every_reason_has_a_case():
    seen = {reason for _, reason in NO_TRANSLATION} | {reason for _, _, reason in ODD if reason}
    assert seen == set(REASONS) - {"language"}  # Tamil has a script of its own; see test_language.py


def test_words_of_the_prompt_are_an_echo():
    prompt = "Translate the following sentence. Give only Tamil.\nEnglish: {source}"
    spoken = "Give only Tamil. Translate the following sentence: " + HONEST
    assert verdict(SOURCE, spoken, TAMIL, prompt=prompt) == "echo"
    assert verdict(SOURCE, HONEST, TAMIL, prompt=prompt) is None
    asked = "Translate the following sentence."
    honest = "பின்வரும் வாக்கியத்தை மொழிபெயர்க்கவும்."
    assert verdict(asked, honest, TAMIL, prompt=prompt) is None


def test_the_languages_are_arguments():
    assert verdict(HONEST, SOURCE, ENGLISH, TAMIL) is None
    assert verdict(HONEST, HONEST, ENGLISH, TAMIL) == "copy"
    assert verdict(HONEST, "Sure! " + SOURCE, ENGLISH, TAMIL) == "preamble"
    assert verdict(HONEST, "English: " + SOURCE, ENGLISH, TAMIL) == "echo"
    assert verdict(HONEST, SOURCE[:-1] + " " + SOURCE, ENGLISH, TAMIL) == "loop"


@pytest.mark.parametrize(("text", "reason"), [row[1:] for row in ODD], ids=[row[0] for row in ODD])
def test_odd_texts(text, reason):
    assert verdict(SOURCE, text, TAMIL) == reason
    assert verdict(text, HONEST, TAMIL) in (None, *REASONS)  # an odd source must not raise


def test_there_are_forty_odd_texts():
    assert len({text for _, text, _ in ODD}) >= 40


PIECES = ["<bos>", "தமிழ்:", "Tamil:", "குறிப்பு:", "note:", "**", "<b>", "\n", '"', "(", "12", "a@b.org", "க\u200d"]
pieces = st.lists(st.sampled_from([*PIECES, *SOURCE.split(), *HONEST.split()]) | st.text(max_size=4), max_size=20)


@settings(max_examples=300)
@given(pieces.map(" ".join), pieces.map(" ".join))
def test_any_two_texts_get_a_verdict(source, output):
    found = verdict(source, output, TAMIL, prompt="Translate into Tamil")
    assert found in (None, *REASONS)
    assert found == verdict(source, output, TAMIL, prompt="Translate into Tamil")


TAMIL_LETTERS = "".join(chr(c) for low, high in TAMIL.ranges for c in range(low, high + 1))


@given(st.text(st.characters(exclude_characters=TAMIL_LETTERS)))
def test_without_a_letter_of_the_language_nothing_passes(output):
    assert verdict(SOURCE, output, TAMIL) is not None


def test_the_rules_are_linear():
    """Eight times the text takes about eight times as long; quadratic would be 64 (the bench measures closely)."""

    def seconds(repeats):
        source, output = SOURCE * repeats, (HONEST + " Ravi 12 a@b.org தி நோட் இஸ் note: ( ") * repeats
        start = time.process_time()
        verdict(source, output, TAMIL)
        return time.process_time() - start

    seconds(10)  # fills the caches of words
    assert seconds(400) < 24 * min(seconds(50) for _ in range(3)) + 0.05
