"""The language table: everything that rules need to know about a language stands in its row. No torch.

Rows are data; no rule elsewhere has a language written into its code. Stems are matched at the start of
a word, so that inflected forms count too.

Tamil and English have rows of their own, measured and with word lists. The other target languages of WMT24++
(Deutsch et al. 2025) have generic ones: script, a rough length ratio with wide limits, and no list that could
fire on a translation. Rules that need words (fidelity of names, sound-alikes) say nothing about them.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from rl_nmt.errors import ConfigError

Range = tuple[int, int]


@dataclass(frozen=True)
class Language:
    """One row of the language table.

    Script and size
        `ranges` are inclusive code point intervals of the script; `digits` its digits 0 to 9.
        `expected_length_ratio` is the typical length of a translation over its English source,
        `length_tolerance` the half width of the band of natural-log ratios in which real translations
        lie, `length_limits` the log distances from the expected ratio that no translation crosses; all in
        NFC code points.
    Sound
        `sounds` spells graphemes in the nine classes of rl_nmt.text.phonetics (alternatives separated by `|`);
        `vowels` are the letters that open a syllable on their own; `virama` is the sign that takes a
        consonant's inherent vowel away ("" in an alphabet); `letter_names` are the sounds of its letters'
        names, as in acronyms.
    Words
        `function_words` are never borrowed by another language; `connectors` hold the words of a name
        together; `abbreviations` end in a full stop that ends no sentence; `unfinished` words end no
        sentence; `common_capitals` are written with a capital and yet translated; `name_endings` are those
        of plurals and peoples, which another language replaces.
    Talk about the translation
        `labels` name a language as a prompt does ("Tamil:"); `meta` are stems of words that speak of
        translating, `meta_topics` stems in a source that explain them; `openers` are the first words of a
        chat answer; `notes` are stems of words that open an explanation, `note_topics` their excuse.
    Numbers
        `number_words` and `scales` give stems and values, `percent` the words for per cent.
    Habits
        `end_marks`: sentences end in a mark, so that one without it may be cut off. `max_copied`: share of a
        source's content letters that a translation may repeat; more where both write cognates alike.
    """

    code: str
    name: str
    script: str
    ranges: tuple[Range, ...]
    nllb: str
    expected_length_ratio: float
    length_tolerance: float
    length_limits: tuple[float, float]
    digits: str
    sounds: tuple[tuple[str, str], ...]
    vowels: str
    virama: str
    letter_names: tuple[tuple[str, str], ...]
    function_words: frozenset[str]
    connectors: frozenset[str]
    abbreviations: frozenset[str]
    unfinished: frozenset[str]
    common_capitals: frozenset[str]
    name_endings: tuple[str, ...]
    labels: tuple[str, ...]
    meta: tuple[str, ...]
    meta_topics: tuple[str, ...]
    openers: tuple[str, ...]
    notes: tuple[str, ...]
    note_topics: tuple[str, ...]
    number_words: tuple[tuple[str, int], ...]
    scales: tuple[tuple[str, int], ...]
    percent: tuple[str, ...]
    end_marks: bool = True
    max_copied: float = 1 / 3

    def __hash__(self) -> int:  # rows are keys of many look-ups; hashing every field each time would cost more
        return hash(self.code)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`"க=k ங=n"` as pairs; `-` stands for no sound."""
    cells = (cell.partition("=") for cell in text.split())
    return tuple((left, "" if right == "-" else right) for left, _, right in cells)


def _values(text: str) -> tuple[tuple[str, int], ...]:
    return tuple((stem, int(float(value))) for stem, value in _pairs(text))


# Ratio: median of professional news translations (NTREX-128: 1.16; IndicMT-Eval references: 1.17). The band of
# 0.45 around it leaves out about one translation in fifty (NTREX log ratios at 5 / 95 %: -0.14 / 0.46, at 0.5 /
# 99.5 %: -0.34 / 0.73). Limits lie outside all of the first set.
TAMIL = Language(
    code="ta",
    name="Tamil",
    script="Tamil",
    ranges=((0x0B80, 0x0BFF), (0x11FC0, 0x11FFF)),
    nllb="tam_Taml",
    expected_length_ratio=1.17,
    length_tolerance=0.45,
    length_limits=(-0.9, 0.9),
    digits="௦௧௨௩௪௫௬௭௮௯",
    sounds=_pairs("க=k ங=n ச=s ஞ=n ட=t ண=n த=t ந=n ன=n ப=p ம=m ய=- ர=r ற=r ல=l ள=l ழ=l வ=v ஜ=s ஶ=s ஷ=s ஸ=s ஹ=- ஃ=-"),
    vowels="அஆஇஈஉஊஎஏஐஒஓஔ",
    virama="\u0bcd",
    letter_names=(),
    function_words=_words("ஒரு இந்த அந்த எந்த என்று என மற்றும் அல்லது ஆனால் அது இது அவர் அவள் அவன் நான் நீ நாம் நாங்கள் மிக"),
    connectors=frozenset(),
    abbreviations=_words("திரு திருமதி டாக்டர் பேரா கி மு பி"),
    unfinished=_words("மற்றும் அல்லது ஒரு ஓர் இந்த அந்த எந்த"),
    common_capitals=frozenset(),
    name_endings=(),
    labels=("தமிழ்", "தமிழில்", "ஆங்கிலம்", "ஆங்கிலத்தில்"),
    meta=("மொழிபெயர்ப்ப", "மொழிபெயர்த்த", "மொழியாக்க", "தமிழாக்க"),
    meta_topics=("மொழிபெயர்", "தமிழ்", "மொழி"),
    openers=("நிச்சயமாக", "கண்டிப்பாக", "சரி", "இதோ", "வணக்கம்"),
    notes=("குறிப்பு", "விளக்கம்", "உச்சரிப்பு"),
    note_topics=("குறிப்பு", "விளக்கம்"),
    number_words=_values(
        "பூஜ்ஜிய=0 பூச்சிய=0 ஒன்ற=1 ஒரு=1 ஓர்=1 முதல=1 இரண்ட=2 இருவர்=2 மூன்ற=3 மூவர்=3 நான்க=4 நால்வர்=4 "
        "ஐந்த=5 ஐவர்=5 ஆறு=6 ஆறா=6 ஏழு=7 ஏழா=7 எட்ட=8 ஒன்பத=9 பத்து=10 பத்தா=10 பதினொ=11 பன்னிரண்ட=12 "
        "இருபது=20 இருபதா=20 முப்பது=30 நாற்பது=40 ஐம்பது=50 அறுபது=60 எழுபது=70 எண்பது=80 தொண்ணூறு=90 நூறு=100"
    ),
    scales=_values("ஆயிர=1e3 லட்ச=1e5 இலட்ச=1e5 கோடி=1e7 மில்லியன்=1e6 பில்லியன்=1e9 டிரில்லியன்=1e12 ட்ரில்லியன்=1e12"),
    percent=("%", "சதவீத", "சதவிகித", "விழுக்காட", "சதவித"),
)

# Unicode Scripts.txt, Latin; plus the mathematical alphabets (script Common), which read as Latin.
_LATIN: tuple[Range, ...] = (
    (0x0041, 0x005A),
    (0x0061, 0x007A),
    (0x00AA, 0x00AA),
    (0x00BA, 0x00BA),
    (0x00C0, 0x00D6),
    (0x00D8, 0x00F6),
    (0x00F8, 0x02B8),
    (0x02E0, 0x02E4),
    (0x1D00, 0x1D25),
    (0x1D2C, 0x1D5C),
    (0x1D62, 0x1D65),
    (0x1D6B, 0x1D77),
    (0x1D79, 0x1DBE),
    (0x1E00, 0x1EFF),
    (0x2071, 0x2071),
    (0x207F, 0x207F),
    (0x2090, 0x209C),
    (0x212A, 0x212B),
    (0x2184, 0x2184),
    (0x2C60, 0x2C7F),
    (0xA722, 0xA787),
    (0xA78B, 0xA7FF),
    (0xAB30, 0xAB64),
    (0xAB66, 0xAB68),
    (0xFB00, 0xFB06),
    (0xFF21, 0xFF3A),
    (0xFF41, 0xFF5A),
    (0x1D400, 0x1D6A5),
    (0x1DF00, 0x1DF1E),
)

ENGLISH = Language(
    code="en",
    name="English",
    script="Latin",
    ranges=_LATIN,
    nllb="eng_Latn",
    expected_length_ratio=1.0,
    length_tolerance=0.45,
    length_limits=(-1.2, 1.2),
    digits="0123456789",
    sounds=_pairs(
        "tch=s sch=sk|s ch=s|k sh=s ph=p th=t gh=-|k ck=k qu=k q=k x=ks|s ce=s|k ci=s|k cy=s|k cc=k|ks c=k "
        "dge=s dg=s ge=k|s gi=k|s gy=k|s g=k j=s tion=sn|tn sion=sn ture=sr|tr kn=n|kn wr=r|vr wh=v ng=n|nk "
        "aw=-|v ew=- ow=-|v w=v z=s v=v f=p b=p p=p d=t t=t k=k s=s l=l m=m n=n r=r h=- y=-"
    ),
    vowels="aeiou",
    virama="",
    letter_names=_pairs(
        "a=a b=p c=s d=t e=a f=ap g=s h=as i=a j=s k=k l=al m=am n=an o=a p=p q=k r=ar s=as t=t u=- v=v w=tpl x=aks "
        "y=v z=st"
    ),
    function_words=_words(
        "a an the and or but if so as at by for from in into of off on onto out over to up with without than then "
        "that this these those there here it its he him his she her hers they them their we us our you your i me my "
        "mine who whom whose which what when where why how is am are was were be been being do does did done has "
        "have had having will would shall should can could may might must not no nor yes too very just only also "
        "about after again against all any because before between both down during each few more most much once "
        "other own same some such through under until while like don't doesn't didn't isn't wasn't can't won't it's "
        "i'm i've he's she's that's you're they're we're says said"
    ),
    connectors=_words("of and the for de la du van von bin al"),
    abbreviations=_words("mr mrs ms dr prof st jr sr vs etc inc ltd co no gen sen rep gov rev"),
    unfinished=_words("a an the and or of with for by to"),
    common_capitals=_words(
        "monday tuesday wednesday thursday friday saturday sunday spring summer autumn winter mr mrs ms dr sir lord "
        "lady king queen prince princess president vice prime minister secretary senator chairman chief director "
        "general captain judge justice professor doctor state states united kingdom republic union nations north "
        "south east west northern southern eastern western central national international federal world european "
        "court supreme house white council committee commission department ministry government party parliament "
        "congress senate army navy air force police university college school hospital institute museum church bank "
        "city county district province island islands sea ocean river lake mountain bay gulf street road park war "
        "cup league day new democratic democrat democrats republican republicans conservative labour god bible "
        "christian muslim jewish pope bishop black red green blue great old holy american british english french "
        "german spanish italian russian chinese japanese indian greek turkish dutch swiss polish arab african asian"
    ),
    name_endings=("s", "n", "ns", "an", "ans", "ian", "ians", "ese", "ish"),
    labels=("english", "tamil", "source", "target", "translation", "user", "model", "assistant", "system"),
    meta=("translat", "tamil"),
    meta_topics=(
        "translat",
        "interpret",
        "version",
        "render",
        "subtitl",
        "dub",
        "transcri",
        "language",
        "linguist",
        "tamil",
        "word",
    ),
    openers=(
        "sure",
        "certainly",
        "okay",
        "ok",
        "absolutely",
        "here",
        "here's",
        "of course",
        "the translation",
        "translation",
        "translated",
        "in tamil",
        "in english",
        "answer",
        "output",
        "great",
        "hello",
        "hi",
        "greetings",
        "welcome",
        "good",
        "yes",
        "i'd",
        "i can",
        "i'm sorry",
    ),
    notes=(
        "note",
        "explanation",
        "pronunciation",
        "transliteration",
        "literal",
        "alternative",
        "option",
        "breakdown",
        "meaning",
    ),
    note_topics=(
        "note",
        "noting",
        "notic",
        "expla",
        "descri",
        "pronounc",
        "mean",
        "comment",
        "caption",
        "option",
        "choice",
        "interpret",
        "statement",
        "definition",
        "hint",
        "clue",
        "reference",
        "remark",
    ),
    number_words=_values(
        "zero=0 one=1 first=1 two=2 second=2 three=3 third=3 four=4 five=5 fifth=5 six=6 seven=7 eight=8 nine=9 "
        "ninth=9 ten=10 eleven=11 twelve=12 twelfth=12 twenty=20 thirty=30 forty=40 fifty=50 sixty=60 "
        "seventy=70 eighty=80 ninety=90 hundred=100"
    ),
    scales=_values("thousand=1e3 k=1e3 lakh=1e5 million=1e6 mn=1e6 m=1e6 crore=1e7 billion=1e9 bn=1e9 trillion=1e12"),
    percent=("%", "percent", "per cent", "pc"),
)

# --- the other languages of WMT24++ --------------------------------------------------------------------

# Unicode blocks of a script's letters and marks; Han also where Japanese writes it.
_HAN: tuple[Range, ...] = ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
_CYRILLIC: tuple[Range, ...] = (
    (0x02BC, 0x02BC),
    (0x0400, 0x052F),
    (0x1C80, 0x1C8F),
    (0x2DE0, 0x2DFF),
    (0xA640, 0xA69F),
)
_RANGES: dict[str, tuple[Range, ...]] = {
    "Latin": _LATIN,
    "Greek": ((0x0370, 0x03FF), (0x1F00, 0x1FFF)),
    "Cyrillic": _CYRILLIC,  # with the modifier apostrophe of Ukrainian
    "Cyrillic or Latin": _CYRILLIC + _LATIN,  # Serbian is written in both
    "Hebrew": ((0x0590, 0x05FF), (0xFB1D, 0xFB4F)),
    "Arabic": ((0x0600, 0x06FF), (0x0750, 0x077F), (0x0870, 0x08FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
    "Devanagari": ((0x0900, 0x097F), (0xA8E0, 0xA8FF)),
    "Bengali": ((0x0980, 0x09FF),),
    "Gurmukhi": ((0x0A00, 0x0A7F),),
    "Gujarati": ((0x0A80, 0x0AFF),),
    "Telugu": ((0x0C00, 0x0C7F),),
    "Kannada": ((0x0C80, 0x0CFF),),
    "Malayalam": ((0x0D00, 0x0D7F),),
    "Thai": ((0x0E00, 0x0E7F),),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF)),
    "Han": (*_HAN, (0x3100, 0x312F)),
    "Japanese": (*_HAN, (0x3040, 0x30FF), (0x31F0, 0x31FF)),
}
# Code points over those of the English source. Rough: alphabets and syllabic alphabets lie near one, scripts that
# write a syllable or a word in one character far below it. Not measured here, so the limits are wide (a factor of
# 3.3 either way): they refuse what is no translation at any ratio.
_RATIOS = {"Han": 0.33, "Japanese": 0.48, "Hangul": 0.52, "Hebrew": 0.85, "Arabic": 0.95}
_WIDE, _TOLERANCE = (-1.2, 1.2), 0.7
_COGNATES = 0.8  # "La situation est importante pour la population." repeats 72 % of its source
_UNMARKED = ("th",)

# code | name | script | NLLB | what a label may call the language or a translation, in its own words
_GENERIC = """
ar | Arabic | Arabic | arb_Arab | العربية, الترجمة
bg | Bulgarian | Cyrillic | bul_Cyrl | български, превод
bn | Bengali | Bengali | ben_Beng | বাংলা, অনুবাদ
ca | Catalan | Latin | cat_Latn | català, traducció
cs | Czech | Latin | ces_Latn | čeština, česky, překlad
da | Danish | Latin | dan_Latn | dansk, oversættelse
de | German | Latin | deu_Latn | deutsch, übersetzung
el | Greek | Greek | ell_Grek | ελληνικά, μετάφραση
es | Spanish | Latin | spa_Latn | español, traducción
et | Estonian | Latin | est_Latn | eesti keeles, tõlge
fa | Persian | Arabic | pes_Arab | فارسی, ترجمه
fi | Finnish | Latin | fin_Latn | suomeksi, käännös
fil | Filipino | Latin | tgl_Latn | tagalog, salin
fr | French | Latin | fra_Latn | français, traduction
gu | Gujarati | Gujarati | guj_Gujr | ગુજરાતી, અનુવાદ
he | Hebrew | Hebrew | heb_Hebr | עברית, תרגום
hi | Hindi | Devanagari | hin_Deva | हिन्दी, हिंदी, अनुवाद
hr | Croatian | Latin | hrv_Latn | hrvatski, prijevod
hu | Hungarian | Latin | hun_Latn | magyarul, fordítás
id | Indonesian | Latin | ind_Latn | bahasa indonesia, terjemahan
is | Icelandic | Latin | isl_Latn | íslenska, þýðing
it | Italian | Latin | ita_Latn | italiano, traduzione
ja | Japanese | Japanese | jpn_Jpan | 日本語, 翻訳
kn | Kannada | Kannada | kan_Knda | ಕನ್ನಡ, ಅನುವಾದ
ko | Korean | Hangul | kor_Hang | 한국어, 번역
lt | Lithuanian | Latin | lit_Latn | lietuviškai, vertimas
lv | Latvian | Latin | lvs_Latn | latviski, tulkojums
ml | Malayalam | Malayalam | mal_Mlym | മലയാളം, വിവർത്തനം
mr | Marathi | Devanagari | mar_Deva | मराठी, भाषांतर
nl | Dutch | Latin | nld_Latn | nederlands, vertaling
no | Norwegian | Latin | nob_Latn | norsk, oversettelse
pa | Punjabi | Gurmukhi | pan_Guru | ਪੰਜਾਬੀ, ਅਨੁਵਾਦ
pl | Polish | Latin | pol_Latn | po polsku, tłumaczenie
pt | Portuguese | Latin | por_Latn | português, tradução
ro | Romanian | Latin | ron_Latn | română, traducere
ru | Russian | Cyrillic | rus_Cyrl | по-русски, перевод
sk | Slovak | Latin | slk_Latn | slovenčina, preklad
sl | Slovenian | Latin | slv_Latn | slovenščina, prevod
sr | Serbian | Cyrillic or Latin | srp_Cyrl | српски, srpski, превод, prevod
sv | Swedish | Latin | swe_Latn | svenska, översättning
sw | Swahili | Latin | swh_Latn | kiswahili, tafsiri
te | Telugu | Telugu | tel_Telu | తెలుగు, అనువాదం
th | Thai | Thai | tha_Thai | ภาษาไทย, คำแปล
tr | Turkish | Latin | tur_Latn | türkçe, çeviri
uk | Ukrainian | Cyrillic | ukr_Cyrl | українською, переклад
ur | Urdu | Arabic | urd_Arab | اردو, ترجمہ
vi | Vietnamese | Latin | vie_Latn | tiếng việt, bản dịch
zh | Chinese | Han | zho_Hans | 中文, 翻译, 翻譯, 译文, 譯文
zu | Zulu | Latin | zul_Latn | isizulu, ukuhumusha
"""


def _generic(line: str) -> Language:
    """The row of a language of which only script and size are known."""
    code, name, script, nllb, own = (cell.strip() for cell in line.split("|"))
    latin = "Latin" in script
    return Language(
        code=code,
        name=name,
        script=script,
        ranges=_RANGES[script],
        nllb=nllb,
        expected_length_ratio=_RATIOS.get(script, 1.05),
        length_tolerance=_TOLERANCE,
        length_limits=_WIDE,
        digits="0123456789",
        sounds=(),
        vowels="",
        virama="",
        letter_names=(),
        function_words=frozenset(),
        connectors=frozenset(),
        abbreviations=frozenset(),
        unfinished=frozenset(),
        common_capitals=frozenset(),
        name_endings=(),
        labels=(name.lower(), *own.split(", ")),
        meta=(),
        meta_topics=(),
        openers=(),
        notes=("translator's note",),  # an empty list would match every word with a colon
        note_topics=(),
        number_words=(),
        scales=(),
        percent=("%",),
        end_marks=code not in _UNMARKED,
        max_copied=_COGNATES if latin else 1 / 3,
    )


LANGUAGES: dict[str, Language] = {row.code: row for row in (TAMIL, ENGLISH, *map(_generic, _GENERIC.split("\n")[1:-1]))}
LANGUAGES["ar_EG"] = replace(LANGUAGES["ar"], code="ar_EG", nllb="arz_Arab")
LANGUAGES["zh_TW"] = replace(LANGUAGES["zh"], code="zh_TW", nllb="zho_Hant")

# The 55 target languages of WMT24++ by the names of its configurations (en-…); a bare code means the first of them.
WMT24PP: tuple[str, ...] = tuple(
    "ar_EG ar_SA bg_BG bn_IN ca_ES cs_CZ da_DK de_DE el_GR es_MX et_EE fa_IR fi_FI fil_PH fr_FR fr_CA gu_IN he_IL "
    "hi_IN hr_HR hu_HU id_ID is_IS it_IT ja_JP kn_IN ko_KR lt_LT lv_LV ml_IN mr_IN nl_NL no_NO pa_IN pl_PL pt_BR "
    "pt_PT ro_RO ru_RU sk_SK sl_SI sr_RS sv_SE sw_KE sw_TZ ta_IN te_IN th_TH tr_TR uk_UA ur_PK vi_VN zh_CN zh_TW "
    "zu_ZA".split()
)


def language(code: str, argument: str = "language") -> Language:
    """Return the row for a language code, with or without a region, in any of the usual spellings.

    A region without a row of its own takes its language's. Raises ConfigError, naming `argument`, for a code that is
    not in the table.

    >>> [language(code).name for code in ("ko", "ko_KR", "ta-in", "ZH_tw")], language("zh_TW").nllb
    (['Korean', 'Korean', 'Tamil', 'Chinese'], 'zho_Hant')
    """
    base, region = _parts(code, argument)
    return LANGUAGES.get(f"{base}_{region}") or LANGUAGES[base]


def bcp47(code: str, argument: str = "language") -> str:
    """Return the code as prompts write it: `ko-KR`, or `ko` where no region was given. Raises as `language`.

    >>> bcp47("ko_kr"), bcp47("TA"), bcp47("fil-PH")
    ('ko-KR', 'ta', 'fil-PH')
    """
    base, region = _parts(code, argument)
    return f"{base}-{region}" if region else base


def wmt24pp_code(code: str, argument: str = "target_lang") -> str:
    """Return WMT24++'s code of a target language: of a bare code the first region. Raises ConfigError for others.

    >>> wmt24pp_code("ta"), wmt24pp_code("zh-TW"), wmt24pp_code("pt")
    ('ta_IN', 'zh_TW', 'pt_BR')
    """
    base, region = _parts(code, argument)
    found = [known for known in WMT24PP if known.split("_")[0] == base and region in ("", known.split("_")[1])]
    if not found:
        near = [known for known in WMT24PP if known.split("_")[0] == base]
        way_out = f"it has {' and '.join(near)}" if near else f"it has {', '.join(WMT24PP)}"
        raise ConfigError(f"{argument}: WMT24++ has no {code}: {way_out}")
    return found[0]


def _parts(code: str, argument: str) -> tuple[str, str]:
    """(language, region or "") of a code whose language is in the table."""
    found = re.fullmatch(r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{2}))?", code.strip())
    if found and found[1].lower() in LANGUAGES:
        return found[1].lower(), (found[2] or "").upper()
    names = {row.name.lower(): row.code for row in LANGUAGES.values() if "_" not in row.code}
    word = re.split("[-_]", code.strip().lower())[0]
    near = difflib.get_close_matches(word, [*names, *names.values()], n=1, cutoff=0.75)
    hint = f"did you mean {names.get(near[0], near[0])}?" if near else f"use one of {', '.join(sorted(names.values()))}"
    raise ConfigError(f"{argument}: {code!r} is no language of the table: {hint}")
