"""Rows of eight Indian languages: number words, names in their scripts, gates on sentences written by hand."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from rl_nmt.guards.copying import copied_share
from rl_nmt.guards.facts import check
from rl_nmt.guards.gates import verdict
from rl_nmt.text.languages import ENGLISH, LANGUAGES, TAMIL, language
from rl_nmt.text.numbers import numbers
from rl_nmt.text.phonetics import alike, sounds, spelled, stems
from rl_nmt.text.sentences import split_sentences

CODES = ["bn", "gu", "hi", "kn", "ml", "mr", "pa", "te"]

# --- numbers -------------------------------------------------------------------------------------------

# Words of the table that are misspelt, or of a dialect.
NOT_READ = {"পঁইত্রিশ", "সাতত্রিশ", "চৌচল্লিশ", "ಮುವತ್ತ ಮೂರು", "ಎಂಭತ್ತ ನಾಲ್ಕು"}


def test_numbers_as_others_spell_them():
    """The table of scripts/indic_numbers.py: ICU's rules for Hindi and Gujarati, packages for the others."""
    rows = [line.split("\t") for line in Path(__file__).with_name("indic_numbers.tsv").read_text("utf-8").splitlines()]
    assert len(rows) == 8 * 118 and {code for code, _, _ in rows} == set(CODES)
    failed = []
    for code, value, words in rows:
        found = [number.readings for number in numbers(words, LANGUAGES[code])]
        if (len(found) != 1 or float(value) not in found[0]) and words not in NOT_READ:
            failed.append((code, value, words, found))
    assert failed == [] and len({words for _, _, words in rows} & NOT_READ) == len(NOT_READ)


@pytest.mark.parametrize(
    ("code", "text", "worth"),
    [
        ("hi", "१२,३४,५६७", 1_234_567),
        ("hi", "दो लाख पच्चीस हज़ार चार सौ", 225_400),
        ("hi", "2 लाख करोड़", 2e12),
        ("hi", "साढ़े तीन करोड़", 3.5e7),
        ("hi", "सवा दो लाख", 225_000),
        ("hi", "पौने दो सौ", 175),
        ("hi", "डेढ़ सौ", 150),
        ("hi", "ढाई हजार", 2500),
        ("hi", "पांचवें", 5),
        ("hi", "दस।", 10),
        ("mr", "दोनशे", 200),
        ("mr", "एक लाख तेवीस हजार चारशे छप्पन्न", 123_456),
        ("mr", "साडेतीन हजार", 3500),
        ("mr", "अडीच कोटी", 2.5e7),
        ("mr", "सहाव्या", 6),
        ("mr", "तेवीसच्या", 23),
        ("gu", "ત્રણસો પચીસ", 325),
        ("gu", "બસો", 200),
        ("gu", "સાડા ચાર લાખ", 450_000),
        ("gu", "૧૫ કરોડ", 1.5e8),
        ("gu", "સાતમી", 7),
        ("pa", "ਦੋ ਲੱਖ ਪੰਜਾਹ ਹਜ਼ਾਰ", 250_000),
        ("pa", "ਡੇਢ ਕਰੋੜ", 1.5e7),
        ("pa", "੪੭", 47),
        ("pa", "ਸੱਤਵੇਂ", 7),
        ("bn", "২৫ লাখ", 2.5e6),
        ("bn", "পাঁচশো", 500),
        ("bn", "তিন হাজার দুইশ", 3200),
        ("bn", "সাড়ে চার কোটি", 4.5e7),
        ("bn", "আড়াই লক্ষ", 250_000),
        ("bn", "সাতটির", 7),
        ("bn", "ষষ্ঠ", 6),
        ("te", "రెండు వేల ఐదు వందల", 2500),
        ("te", "నూట ఇరవై మూడు", 123),
        ("te", "ఇరవైఐదు", 25),
        ("te", "రెండున్నర లక్షల", 250_000),
        ("te", "మూడవ", 3),
        ("te", "ఐదో", 5),
        ("te", "౧౨", 12),
        ("kn", "ಇಪ್ಪತ್ತಮೂರು", 23),
        ("kn", "ಐವತ್ನಾಲ್ಕು", 54),
        ("kn", "ಎರಡೂವರೆ ಸಾವಿರ", 2500),
        ("kn", "ನೂರ ಇಪ್ಪತ್ತೈದು", 125),
        ("kn", "ಒಂಬೈನೂರು", 900),
        ("kn", "ಎಂಟನೇ", 8),
        ("kn", "ಮೂರರಲ್ಲಿ", 3),
        ("ml", "ഇരുപത്തിയഞ്ച്", 25),
        ("ml", "നാൽപ്പത്തൊന്ന്", 41),
        ("ml", "തൊണ്ണൂറ്റിയൊമ്പത്", 99),
        ("ml", "മൂവായിരം", 3000),
        ("ml", "ഇരുപത്തയ്യായിരം", 25_000),
        ("ml", "രണ്ടര ലക്ഷം", 250_000),
        ("ml", "ഒന്‍പതാം", 9),
        ("ml", "മുപ്പത്തിരണ്ടുകാരനെ", 32),
    ],
)
def test_numbers_in_phrases_and_with_endings(code, text, worth):
    found = numbers(text, LANGUAGES[code])
    assert [number.readings[0] for number in found] == [worth] and found[0].sure


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("hi", "नौकर सौंप दोष चारा आठवले लाखनपुर"),
        ("mr", "आठवडाभर सातत्य दोनदा सहाय्य वीसलदेव"),
        ("gu", "છે નવું બેન સોમવાર દસ્તાવેજ ચારિત્ર્ય"),
        ("pa", "ਸੌਂਪ ਚਾਰਾ ਪੰਜਾਬ ਸਤਿਕਾਰ ਨੌਕਰੀ"),
        ("bn", "তিনি তারা দশা বিশ্ব সাতক্ষীরা আটকে চারপাশে"),
        ("te", "పదవి ఆరోగ్యం ఏడుపు వందనం లక్ష్యం కోటీశ్వరుడు"),
        ("kn", "ಹತ್ತಿರ ಆರೋಗ್ಯ ಏಳಿಗೆ ನೂರ್ ಕೋಟೆ"),
        ("ml", "പത്തനംതിട്ട ആറന്മുള ഏഴിമല നൂൽ കോട്ടയം"),
    ],
)
def test_words_that_begin_like_a_number(code, text):
    assert [number.text for number in numbers(text, LANGUAGES[code]) if number.sure] == []


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("hi", "दोनों"),
        ("hi", "पहले"),
        ("bn", "নয়"),
        ("bn", "প্রথমে"),
        ("gu", "બંને"),
        ("mr", "दोघांनी"),
        ("pa", "ਦੱਸ"),
        ("te", "వేల"),
        ("kn", "ಏಳು"),
        ("ml", "ആറ്"),
    ],
)
def test_words_that_may_be_a_number(code, word):
    """They can match a number of the source, but are not required, and never count as added."""
    assert [number.sure for number in numbers(word, LANGUAGES[code])] == [False]


def test_only_english_splits_years():
    """Two numbers in a row are a range in Hindi: fifteen, twenty people."""
    assert [n.readings[0] for n in numbers("nineteen eighty-four", ENGLISH)] == [1984]
    assert [n.readings[0] for n in numbers("पंद्रह बीस लोग", LANGUAGES["hi"])] == [15, 20]


# --- the shared layout of the scripts ------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES)
def test_every_letter_of_the_script_has_a_sound(code):
    """All letters in the order of ISCII, which ends before the additions at 0x50: by Unicode's own names."""
    row = LANGUAGES[code]
    start = row.ranges[0][0]
    letters = {chr(place) for place in range(start + 0x05, start + 0x3A)}
    letters = {letter for letter in letters if unicodedata.name(letter, "") and unicodedata.category(letter) == "Lo"}
    letters = {letter for letter in letters if unicodedata.is_normalized("NFC", letter)}
    known = {grapheme for grapheme, _ in row.sounds} | {written for written, _ in row.respelled}
    # Vocalic l occurs in Sanskrit grammar only, ഩ and ഺ not at all in today's Malayalam.
    rare = {letter for letter in letters if "VOCALIC L" in unicodedata.name(letter)} | {"ഺ"}
    assert letters - rare <= known
    assert {sound for _, cell in row.sounds for sound in cell} <= set("akstpmnrlvy|-AEIOUWX*")
    assert row.vowels[0] == chr(start + 0x05) and row.virama == chr(start + 0x4D)
    assert "VIRAMA" in unicodedata.name(row.virama)


@pytest.mark.parametrize("code", CODES)
def test_letters_at_the_same_place_sound_alike(code):
    """The consonants by their Unicode names, against Tamil's own table where the names agree."""
    tamil = {unicodedata.name(g).split()[-1]: cell for g, cell in TAMIL.sounds if len(g) == 1 and g not in TAMIL.vowels}
    for grapheme, cell in LANGUAGES[code].sounds:
        name = unicodedata.name(grapheme, "").split() if len(grapheme) == 1 else [""]
        if grapheme not in LANGUAGES[code].vowels and name[-1] in tamil and cell != tamil[name[-1]]:
            assert (code, grapheme) in {("bn", "য")}, grapheme  # read as j


@pytest.mark.parametrize(
    ("code", "word", "letters"),
    [
        ("hi", "पाँच", "पआङचअ"),
        ("hi", "पांच", "पआङचअ"),
        ("hi", "कड़ी", "कअरई"),
        ("hi", "फ़िल्म", "फइलमअ"),
        ("bn", "ম্যাক", "মআকঅ"),
        ("bn", "কোরিয়া", "কওরইহআ"),
        ("pa", "ਅੱਠ", "ਅਠਅ"),
        ("ml", "ജോൺ", "ജഓണ"),
        ("ml", "ജോണ്‍", "ജഓണ"),
        ("ml", "സ്റ്റേഷൻ", "സടടഏഷഅന"),
        ("te", "లండన్", "లఅఙడఅన"),
    ],
)
def test_spelled_by_sound(code, word, letters):
    assert spelled(word, LANGUAGES[code]) == letters


# Names as newspapers spell them, some with an ending (ours, checked by hand).
HEARD = {
    "hi": "london=लंदन washington=वॉशिंगटन mumbai=मुंबई krishna=कृष्ण chandigarh=चंडीगढ़ xavier=ज़ेवियर george=जॉर्ज ram=राम",
    "mr": "london=लंडनमध्ये washington=वॉशिंग्टनच्या trump=ट्रम्पसोबत russia=रशियासारख्या ram=रामाला",
    "gu": "london=લંડનમાં trump=ટ્રમ્પે krishna=કૃષ્ણને washington=વોશિંગ્ટનની",
    "pa": "london=ਲੰਡਨ amritsar=ਅੰਮ੍ਰਿਤਸਰ washington=ਵਾਸ਼ਿੰਗਟਨ singh=ਸਿੰਘ",
    "bn": "london=লন্ডনের washington=ওয়াশিংটনে korea=কোরিয়ার york=ইয়র্ক william=উইলিয়ামকে macron=ম্যাক্রোঁ",
    "te": "london=లండన్‌లో washington=వాషింగ్టన్‌కు trump=ట్రంప్‌ను krishna=కృష్ణుడు thatcher=థాట్చర్",
    "kn": "london=ಲಂಡನ್‌ನಲ್ಲಿ washington=ವಾಷಿಂಗ್ಟನ್‌ಗೆ russia=ರಷ್ಯಾದಂತಹ krishna=ಕೃಷ್ಣನನ್ನು",
    "ml": "london=ലണ്ടനിൽ john=ജോണിന്റെ james=ജെയിംസിനോട് rangers=റേഞ്ചേഴ്സിന്റെ korea=കൊറിയയുമായുള്ള",
}
NOT_HEARD = {
    "hi": "paris=लंदन mani=मीनू ravi=रोज़ john=किताब",
    "mr": "paris=लंडनमध्ये john=पुस्तक ravi=रविवारपर्यंतचे",
    "gu": "paris=લંડનમાં john=ચોપડી",
    "pa": "paris=ਲੰਡਨ john=ਕਿਤਾਬ",
    "bn": "paris=লন্ডনের john=বইটি",
    "te": "paris=లండన్‌లో john=పుస్తకం",
    "kn": "paris=ಲಂಡನ್‌ನಲ್ಲಿ john=ಪುಸ್ತಕ",
    "ml": "paris=ലണ്ടനിൽ john=പുസ്തകം",
}


def _hears(name: str, word: str, code: str) -> bool:
    return any(
        a[0] == b[0] and alike(a, b)
        for a in sounds(name, ENGLISH)
        for b in stems(word.replace("\u200c", ""), LANGUAGES[code])
    )


@pytest.mark.parametrize("code", CODES)
def test_names_are_heard_in_every_script(code):
    for heard, table in ((True, HEARD), (False, NOT_HEARD)):
        wrong = [cell for cell in table[code].split() if _hears(*cell.split("="), code) != heard]
        assert wrong == []


@pytest.mark.parametrize("code", CODES)
def test_function_words_are_no_names(code):
    row = LANGUAGES[code]
    assert len(row.function_words) > 40
    assert all(stems(word, row) == () for word in row.function_words)


# --- sentences -----------------------------------------------------------------------------------------

BOUGHT = "My friend Ravi bought five books in Chennai on 12 March."
# The translation, its word for five, and the word for six in the same form.
TRANSLATIONS = {
    "hi": ("मेरे दोस्त रवि ने 12 मार्च को चेन्नई में पाँच किताबें खरीदीं।", "पाँच", "छह"),
    "mr": ("माझा मित्र रवीने 12 मार्च रोजी चेन्नईमध्ये पाच पुस्तके विकत घेतली.", "पाच", "सहा"),
    "gu": ("મારા મિત્ર રવિએ 12 માર્ચે ચેન્નાઈમાં પાંચ પુસ્તકો ખરીદ્યાં.", "પાંચ", "સાત"),
    "pa": ("ਮੇਰੇ ਦੋਸਤ ਰਵੀ ਨੇ 12 ਮਾਰਚ ਨੂੰ ਚੇਨਈ ਵਿੱਚ ਪੰਜ ਕਿਤਾਬਾਂ ਖਰੀਦੀਆਂ।", "ਪੰਜ", "ਛੇ"),
    "bn": ("আমার বন্ধু রবি ১২ মার্চ চেন্নাইয়ে পাঁচটি বই কিনেছিলেন।", "পাঁচটি", "ছয়টি"),
    "te": ("నా స్నేహితుడు రవి మార్చి 12న చెన్నైలో ఐదు పుస్తకాలు కొన్నాడు.", "ఐదు", "ఎనిమిది"),
    "kn": ("ನನ್ನ ಸ್ನೇಹಿತ ರವಿ ಮಾರ್ಚ್ 12ರಂದು ಚೆನ್ನೈನಲ್ಲಿ ಐದು ಪುಸ್ತಕಗಳನ್ನು ಖರೀದಿಸಿದನು.", "ಐದು", "ಎಂಟು"),
    "ml": ("എന്റെ സുഹൃത്ത് രവി മാർച്ച് 12-ന് ചെന്നൈയിൽ അഞ്ച് പുസ്തകങ്ങൾ വാങ്ങി.", "അഞ്ച്", "ഏഴ്"),
}


@pytest.mark.parametrize("code", CODES)
def test_a_translation_keeps_its_numbers_and_names(code):
    translation, five, other = TRANSLATIONS[code]
    row = LANGUAGES[code]
    names = {("name", "Ravi"): True, ("name", "Chennai"): True, ("name", "March"): True} if row.requires_names else {}
    assert verdict(BOUGHT, translation, row) is None
    assert check(BOUGHT, translation, row) == {("number", "five"): True, ("number", "12"): True} | names
    found = check(BOUGHT, translation.replace(five, other), row)
    assert found["number", "five"] is False and found["added", other] is False
    if row.requires_names:
        without = translation.replace(translation.split()[2], row.vowels[1] * 2)
        assert check(BOUGHT, without, row)["name", "Ravi"] is False


# "The boy reads a good book." in their letters instead of in their language.
SOUNDED = {
    "hi": "द बॉय रीड्स अ गुड बुक।",
    "mr": "द बॉय रीड्स अ गुड बुक.",
    "gu": "ધ બોય રીડ્સ અ ગુડ બુક.",
    "pa": "ਦ ਬੁਆਏ ਰੀਡਜ਼ ਅ ਗੁੱਡ ਬੁੱਕ।",
    "bn": "দ্য বয় রিডস আ গুড বুক।",
    "te": "ది బాయ్ రీడ్స్ ఎ గుడ్ బుక్.",
    "kn": "ದಿ ಬಾಯ್ ರೀಡ್ಸ್ ಎ ಗುಡ್ ಬುಕ್.",
    "ml": "ദി ബോയ് റീഡ്സ് എ ഗുഡ് ബുക്ക്.",
}


@pytest.mark.parametrize("code", CODES)
def test_english_is_a_copy_in_any_letters(code):
    source, row = "The boy reads a good book.", LANGUAGES[code]
    assert copied_share(source, SOUNDED[code], row) == 1.0
    assert verdict(source, SOUNDED[code], row) == verdict(source, source, row) == "copy"
    assert copied_share(BOUGHT, TRANSLATIONS[code][0], row) == 0.0


@pytest.mark.parametrize("code", CODES)
def test_another_script_labels_and_remarks_are_caught(code):
    source, row = BOUGHT, LANGUAGES[code]
    other = next(c for c in CODES if LANGUAGES[c].ranges != row.ranges)
    translation = TRANSLATIONS[code][0]
    assert verdict(source, TRANSLATIONS[other][0], row) == "script"
    assert verdict(source, f"{row.labels[1]}: {translation}", row) == "echo"
    assert verdict(source, f"{translation} ({row.notes[0]}: {translation})", row) == "preamble"
    assert verdict(source, f"{row.openers[0]}! {translation}", row) == "preamble"
    assert verdict(source, f"{row.openers[0]} {row.meta[0]} {translation}", row) == "preamble"


@pytest.mark.parametrize(
    ("code", "cut"),
    [
        ("hi", "मेरे दोस्त रवि ने 12 मार्च को चेन्नई में पाँच किताबें और"),
        ("mr", "माझा मित्र रवीने 12 मार्च रोजी चेन्नईमध्ये पाच पुस्तके आणि"),
        ("gu", "મારા મિત્ર રવિએ 12 માર્ચે ચેન્નાઈમાં પાંચ પુસ્તકો અને"),
        ("bn", "আমার বন্ধু রবি ১২ মার্চ চেন্নাইয়ে পাঁচটি বই এবং"),
        ("te", "నా స్నేహితుడు రవి మార్చి 12న చెన్నైలో ఐదు పుస్తకాలు మరియు"),
        ("kn", "ನನ್ನ ಸ್ನೇಹಿತ ರವಿ ಮಾರ್ಚ್ 12ರಂದು ಚೆನ್ನೈನಲ್ಲಿ ಐದು ಪುಸ್ತಕಗಳನ್ನು ಮತ್ತು"),
        ("ml", "എന്റെ സുഹൃത്ത് രവി മാർച്ച് 12-ന് ചെന്നൈയിൽ അഞ്ച് പുസ്തകങ്ങൾ അല്ലെങ്കിൽ"),
    ],
)
def test_a_sentence_cannot_end_in_and(code, cut):
    assert verdict(BOUGHT, cut, LANGUAGES[code]) == "truncated"


def test_punjabi_may_lack_the_end_mark():
    """One in five professional references does; a comma still is a cut."""
    translation = TRANSLATIONS["pa"][0].rstrip("।")
    assert verdict(BOUGHT, translation, LANGUAGES["pa"]) is None
    assert verdict(BOUGHT, f"{translation},", LANGUAGES["pa"]) == "truncated"


@pytest.mark.parametrize(
    ("code", "text", "count"),
    [
        ("hi", "वह आया। डॉ. रवि गए। ठीक है?", 3),
        ("mr", "तो आला. डॉ. रवी गेले. का?", 3),
        ("bn", "সে এল। ডা. রবি গেলেন। কেন?", 3),
        ("pa", "ਉਹ ਆਇਆ। ਡਾ. ਰਵੀ ਗਏ। ਕਿਉਂ?", 3),
        ("gu", "તે આવ્યો. ડૉ. રવિ ગયા. કેમ?", 3),
        ("te", "అతను వచ్చాడు. డా. రవి వెళ్ళారు. ఎందుకు?", 3),
        ("kn", "ಅವನು ಬಂದ. ಡಾ. ರವಿ ಹೋದರು. ಏಕೆ?", 3),
        ("ml", "അവൻ വന്നു. ഡോ. രവി പോയി. എന്തുകൊണ്ട്?", 3),
    ],
)
def test_sentences_end_at_a_danda_and_not_after_doctor(code, text, count):
    assert len(split_sentences(text, language(code))) == count


def test_acronyms_by_the_names_of_their_letters():
    for code, text in (
        ("hi", "एफबीआई ने कहा।"),
        ("bn", "এফবিআই বলেছে।"),
        ("te", "ఎఫ్‌బిఐ చెప్పింది."),
        ("kn", "ಎಫ್‌ಬಿಐ ಹೇಳಿದೆ."),
        ("ml", "എഫ്‌ബിഐയുടെ വാക്കുകൾ."),
        ("pa", "ਐੱਫ.ਬੀ.ਆਈ. ਨੇ ਕਿਹਾ।"),
    ):
        assert check("The FBI said so.", text, LANGUAGES[code]) == {("acronym", "FBI"): True}, code


def test_gujarati_requires_no_names():
    assert [code for code, row in LANGUAGES.items() if not row.requires_names] == ["gu"]
