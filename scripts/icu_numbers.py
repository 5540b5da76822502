"""Write numbers as ICU spells them out into tests/text/icu_numbers.tsv: language, kind, value, words.

    python scripts/icu_numbers.py     # needs PyICU, as nothing else here; the committed table is from ICU 72

tests/text/test_numbers.py reads every row and lists the rows that it reads differently.
"""

from pathlib import Path

import icu

VALUES = [*range(1, 101), *range(200, 1001, 100), 101, 123, 250, 999, 1001, 1500, 2024, 10_000, 25_000, 99_999]
VALUES += [100_000, 125_000, 250_000, 1_000_000, 2_500_000, 10_000_000, 12_500_000, 350_000_000]
KINDS = {"cardinal": "%spellout-cardinal", "ordinal": "%spellout-ordinal"}


def rows():
    for language, locale in (("ta", "ta"), ("en", "en"), ("en", "en_IN")):
        rules = icu.RuleBasedNumberFormat(icu.URBNFRuleSetTag.SPELLOUT, icu.Locale(locale))
        for kind, name in KINDS.items():
            rules.setDefaultRuleSet(name)
            for value in VALUES:
                yield language, kind, str(value), rules.format(value)


table = Path(__file__).parents[1] / "tests" / "text" / "icu_numbers.tsv"
table.write_text("".join("\t".join(row) + "\n" for row in dict.fromkeys(rows())), encoding="utf-8")
