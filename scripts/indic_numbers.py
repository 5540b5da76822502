"""Write numbers as others spell them in Indian languages into tests/text/indic_numbers.tsv: language, value, words.

    python scripts/indic_numbers.py     # needs PyICU, num2words, indic-num2words and indic-numtowords

ICU has rules for Hindi and Gujarati only, so each other language has the package that spells it best. The committed
table is from ICU 78, num2words 0.5.14, indic-num2words 1.3.2 and indic-numtowords 1.1.0; tests/text/test_indic.py
reads every row and lists the words that it does not read.
"""

from pathlib import Path

import icu
import indic_numtowords
from num2words import num2words
from num_to_words import num_to_word

VALUES = [*range(101), *range(200, 1001, 100), 123, 1500, 1947, 2024, 25_000, 125_000, 2_500_000, 12_500_000]
FROM = {"hi": "icu", "gu": "icu", "bn": "num2words", "kn": "indic", "pa": "indic", "ml": "to", "mr": "to", "te": "to"}


def spelled(value: int, language: str) -> str:
    if FROM[language] == "icu":
        return icu.RuleBasedNumberFormat(icu.URBNFRuleSetTag.SPELLOUT, icu.Locale(language)).format(value)
    if FROM[language] == "num2words":
        return num2words(value, lang=language)
    if FROM[language] == "indic":
        return num_to_word(value, lang=language)
    return indic_numtowords.num2words(value, lang=language, variations=False)


rows = ((language, str(value), spelled(value, language).replace(",", "")) for language in FROM for value in VALUES)
table = Path(__file__).parents[1] / "tests" / "text" / "indic_numbers.tsv"
table.write_text("".join("\t".join((*row[:2], " ".join(row[2].split()))) + "\n" for row in rows), encoding="utf-8")
