"""Read rows from JSONL, JSON, TSV, text and Parquet files, with the place of the row in every error. No torch.

    for row in read(path, "--file"):            # streamed: row.where is "--file: pairs.tsv line 3"
        source, reference = sides(row)          # columns by their usual names
    read_pairs(path, "--file", "src", "mt", "mqm")   # source, output and human score, columns by name

Lines end at line feeds alone: a text may hold U+2028. All formats but Parquet may be packed (.gz, .bz2, .xz).
"""

import bz2
import csv
import functools
import gzip
import io
import itertools
import json
import lzma
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rl_nmt.config import excerpt
from rl_nmt.errors import ConfigError
from rl_nmt.text.languages import LANGUAGES, TAMIL, WMT24PP, Language
from rl_nmt.text.languages import language as find_language
from rl_nmt.text.unicode import is_blank, safe_unicode, script_share, strip_control_tokens

FORMATS = {".jsonl": "json", ".json": "json", ".tsv": "tsv", ".txt": "tsv", ".parquet": "parquet"}  # by file name
SOURCES = ("source", "english", "en", "src")
REFERENCES = ("reference", "target", "ref")  # and the language's name and code: `references`
# Names that belong together, best first: a row that has both of a pair is read by them. NAME, CODE: the language's.
PAIRS = (("source", "reference"), ("source", "target"), ("src", "ref"), ("english", "NAME"), ("en", "CODE"))
IN_SCRIPT = 0.5  # a text counts as written in a script when at least this share of its letters is
MAX_FOREIGN = 0.05  # of real references, which quote names and sentences, 0 to 2.5 % are not (NTREX-128)
# Invisible characters that change tokens, but not the joiners that Indic and Arabic spelling and emoji need.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
_OPENERS: dict[str, Any] = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
Line = tuple[int, str]  # its number and its text


@functools.cache
def codes(language: Language) -> tuple[str, ...]:
    """Return the codes that a column of a language may have: its own, those of regions without a row, without a region.

    >>> codes(TAMIL), codes(LANGUAGES["zh_TW"])
    (('ta', 'ta_in', 'ta-in'), ('zh_tw', 'zh-tw', 'zh'))
    """
    known = [language.code, *(code for code in WMT24PP if find_language(code) is language), language.code.split("_")[0]]
    return tuple(dict.fromkeys(code.lower().replace("_", sign) for code in known for sign in "_-"))


# Codes and names of all languages: a first line with one of them next to a source names its columns.
LANGUAGE_COLUMNS = frozenset(name for row in LANGUAGES.values() for name in (row.name.lower(), *codes(row)))


class Row(NamedTuple):
    """One row: `where` it is, for messages ("--file: a.tsv line 3"), and its cells by column name."""

    where: str
    cells: dict[str, Any]


class Pair(NamedTuple):
    """A source and its translation; `score`: the human score, or None."""

    source: str
    output: str
    score: float | None = None


def read(path: str | Path, argument: str, columns: Iterable[str] = (), kind: str = "") -> Iterator[Row]:
    """Yield the rows of a file one by one.

    JSON is one object per line, an array of objects, or {"data": [...]}. The first line of a TSV names its columns if
    it has `columns`, or without those the usual names of a source and a reference; otherwise the columns are source,
    reference, column 3, … A TSV must have the `columns` that the caller needs in its first line. `kind`: a value of
    FORMATS, or text for lines as they are; empty: by the file's name. `argument`: the setting that names the file.

    Raises ConfigError, with the line, for an unknown ending, a file that cannot be read or unpacked or is not UTF-8,
    and a line that is not a row.
    """
    path, columns = Path(path).expanduser(), [name for name in columns if name]
    file, name = f"{argument}: {path}", path.name.lower()
    packed = path.suffix.lower() if path.suffix.lower() in _OPENERS else ""
    kind = kind or FORMATS.get(Path(name.removesuffix(packed)).suffix, "")
    if not kind:
        raise ConfigError(f"{file}: give a file that ends in .jsonl, .json, .tsv, .txt (also packed) or .parquet")
    if name.endswith((".zst", ".zip")):
        raise ConfigError(f"{file}: {path.suffix} is not read; unpack it, or pack it as .gz, .bz2 or .xz")
    try:
        with _OPENERS[packed](path, "rb") as stream:
            if kind == "parquet":
                yield from _parquet(stream, file)
            elif kind == "json":
                yield from _json(_lines(stream, file), file)
            elif kind == "tsv":
                yield from _tsv(_lines(stream, file), file, columns)
            else:
                yield from (Row(f"{file} line {number}", {"text": line}) for number, line in _lines(stream, file))
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ConfigError(f"{file} is not a whole {packed.replace('.gz', '.gzip')[1:]} file: fetch it again") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error


def read_all(path: str | Path, argument: str, columns: Iterable[str] = ()) -> list[Row]:
    """Return the rows of a file, at least one; see `read`."""
    rows = list(read(path, argument, columns))
    if not rows:
        raise ConfigError(f"{argument}: {path} holds no rows: give a file with at least one")
    return rows


def read_pairs(
    path: str | Path,
    argument: str,
    source: str = "",
    output: str = "",
    score: str = "",
    language: Language = TAMIL,
    strict: bool = False,
) -> list[Pair]:
    """Return sources with translations and, if `score` names a column, human scores; see `read` and `sides`.

    Raises ConfigError, also for a row without a translation and for a score that is not a finite number; `strict`: also
    if more than MAX_FOREIGN of the translations are in another script.
    """
    pairs, written = [], []
    for row in read_all(path, argument, (source, output, score)):
        text, translation = sides(row, source, output, language)
        if translation is None:
            names = " or ".join(references(language))
            raise ConfigError(f"{row.where} has no translation: name its column, or call it {names}")
        written.append((row.where, translation))
        key = _find(row.cells, score) if score else None
        if score and key is None:
            raise _no_column(row, score)
        pairs.append(Pair(text, translation, number(row.cells.get(key), f"{row.where}: {score}")))
    if strict:
        require_script(written, language)
    return pairs


def require_script(texts: Sequence[tuple[str, str]], language: Language) -> None:
    """Refuse translations, each with its place, of which more than MAX_FOREIGN are in another script than `language`.

    Raises ConfigError with the place of the first one.
    """
    foreign = [each for each in texts if not is_blank(each[1]) and script_share(each[1], language) < IN_SCRIPT]
    if len(foreign) > MAX_FOREIGN * len(texts):
        place, text = foreign[0]
        counted = f"{len(foreign)} of {len(texts)} rows: give translations in that script"
        raise ConfigError(f"{place} is not in {language.name} script: {excerpt(text)}; so are {counted}")


def references(language: Language) -> tuple[str, ...]:
    """Return the usual names of a column with translations into a language; `codes` has more.

    >>> references(TAMIL)
    ('reference', 'target', 'tamil', 'ta', 'ref')
    """
    return *REFERENCES[:2], language.name.lower(), language.code.lower(), *REFERENCES[2:]


def sides(row: Row, source: str = "", reference: str = "", language: Language = TAMIL) -> tuple[str, str | None]:
    """Return the source and the reference of a row; None for a reference that is missing or null.

    `source` and `reference` name columns; empty: the usual names, those of `language` among them, and a whole pair of
    them first. Case does not matter. Raises ConfigError for a named column that is missing and for a value that is not
    a text.
    """
    named = codes(language)
    own = {"NAME": language.name.lower(), "CODE": next((code for code in named if _find(row.cells, code)), named[0])}
    pairs = ((first, own.get(second, second)) for first, second in PAIRS)
    whole = next((pair for pair in pairs if all(_find(row.cells, name) for name in pair)), ("", ""))
    key = _find(row.cells, *([source] if source else (whole[0], *SOURCES)))
    other = _find(row.cells, *([reference] if reference else (whole[1], *references(language), *named)))
    missing = (source or " or ".join(SOURCES)) if key is None else reference if other is None else ""
    if missing:
        raise _no_column(row, missing)
    text, translation = row.cells[key], row.cells.get(other)
    for name, value, types in ((key, text, str), (other, translation, str | None)):
        if not isinstance(value, types):
            raise ConfigError(f"{row.where}: {name!r} is {type(value).__name__}, must be a text")
    return text, translation


def clean_text(cells: dict[str, Any], column: str, where: str) -> str:
    """Return one clean line: NFC, without control tokens and invisible characters; "" for a blank text.

    Raises ConfigError for a value that is not a text.

    >>> clean_text({"post": " a\\u200b <bos>b\\n"}, "post", "line 1")
    'a b'
    """
    value = cells.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(f"{where}: column {column!r} is {type(value).__name__}; it must be a text")
    return " ".join(strip_control_tokens(_INVISIBLE.sub("", safe_unicode(value))).split())


def number(value: Any, where: str) -> float | None:
    """Return a score from a cell: a finite number, also as text; None for null or blank. Raises ConfigError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(f"{where} {value!r} is not a finite number")
    return found


def _find(cells: dict[str, Any], *names: str) -> str | None:
    """Return the first of these columns that a row has."""
    keys = {str(key).lower(): key for key in reversed(cells)}
    return next((name if name in cells else keys[name.lower()] for name in names if name.lower() in keys), None)


def _no_column(row: Row, name: str) -> ConfigError:
    known = ", ".join(map(str, row.cells)) or "nothing"
    return ConfigError(f"{row.where} has no column {name!r}, it has {known}")


def _lines(stream: Iterable[bytes], file: str) -> Iterator[Line]:
    for number, raw in enumerate(stream, 1):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file} line {number} is not UTF-8: save the file as UTF-8") from error


def _tsv(lines: Iterator[Line], file: str, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a table. If a name in the first line is quoted, all fields are read as csv writers quote them;
    else only fields with a doubled quotation mark are. Any other quotation mark is text."""
    filled = ((number, line) for number, line in lines if line.strip())
    first = next(filled, None)
    if first is None:
        return
    place, cells = f"{file} line {first[0]}", first[1].split("\t")
    names = [_unquoted(cell.strip()) for cell in cells]
    known = {name.lower() for name in names}
    if not known.issuperset(map(str.lower, columns)):
        raise ConfigError(f"{place}: the first line does not name the columns {', '.join(columns)}")
    paired = known.intersection(SOURCES) and not known.isdisjoint({*REFERENCES, *LANGUAGE_COLUMNS} - {*SOURCES})
    header = bool(columns or paired)
    if header and any(map(_QUOTED.fullmatch, cells)):
        rows = _quoted_rows(lines, file)
    else:
        rows = _plain_rows(filled if header else itertools.chain([first], filled), file)
        names = names if header else ["source", "reference", *(f"column {i}" for i in range(3, len(cells) + 1))]
    alone = not header and len(cells) == 1
    for where, cells in rows:
        half = len(cells) == 1 and cells[0].count('"') % 2 and (cells[0][0] == '"' or cells[0][-1] == '"')
        if len(cells) != len(names) and (header or len(cells) > 1 or (half and not alone)):
            first_line = f"the first line {'names' if header else 'has'} {len(names)}"
            raise ConfigError(f"{where} has {len(cells)} columns, {first_line}: {_NO_QUOTES}")
        yield Row(where, dict(zip(names, cells, strict=False)))


_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_OPEN = re.compile(r'"(?:[^"]|"")+')  # the start of a quoted field
_NO_QUOTES = "write one row a line, without tabs or line breaks in a field"


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell


def _plain_rows(lines: Iterable[Line], file: str) -> Iterator[tuple[str, list[str]]]:
    """Yield fields unchanged, except those with a doubled quotation mark, which must be quoted."""
    for row, (number, line) in enumerate(lines):
        cells = line.split("\t")
        needless = any('""' not in cell[1:-1] for cell in cells)  # if all are quoted
        if row == 0 and len(cells) > 1 and needless and all(map(_QUOTED.fullmatch, cells)):
            raise ConfigError(f"{file} line {number} has every field quoted; name the columns in line 1, quoted too")
        if any(_OPEN.fullmatch(cell) and '""' in cell for cell in cells):
            raise ConfigError(f"{file} line {number} has a quoted field that is not closed; {_NO_QUOTES}")
        yield f"{file} line {number}", [_unquoted(cell) if '""' in cell[1:-1] else cell for cell in cells]


def _quoted_rows(lines: Iterable[Line], file: str) -> Iterator[tuple[str, list[str]]]:
    """Yield fields as csv writers quote them; they may contain tabs and line breaks."""
    number = 0

    def counted() -> Iterator[str]:
        nonlocal number
        for place, line in lines:
            number = place
            yield line + "\n"  # empty lines too: they may be in a field

    try:
        for cells in csv.reader(counted(), delimiter="\t", strict=True):
            if any(cells):
                yield f"{file} line {number}", cells
    except csv.Error as error:
        raise ConfigError(f"{file} line {number} is not quoted like the first line ({error}); {_NO_QUOTES}") from error


def _json(lines: Iterator[Line], file: str) -> Iterator[Row]:
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        return
    try:
        value = json.loads(first[1])
    except (ValueError, RecursionError):
        value = []  # broken, or the beginning of a value that takes several lines
    if not isinstance(value, list) and not (isinstance(value, dict) and isinstance(value.get("data"), list)):
        for number, line in itertools.chain([first], lines):
            if line.strip():
                yield _object(_parsed(line, file, number), f"{file} line {number}")
        return
    whole = _parsed("\n".join([first[1], *(line for _, line in lines)]), file, first[0])
    rows = whole.get("data", [whole]) if isinstance(whole, dict) else whole
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        yield _object(row, f"{file} row {number}")


def _parsed(text: str, file: str, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line, problem = number + getattr(error, "lineno", 1) - 1, getattr(error, "msg", error)
        raise ConfigError(f"{file} line {line} is not valid JSON ({problem}): write one object per line") from error


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise ConfigError(f'{where} is not a JSON object: write {{"source": "…", "reference": "…"}}')
    return Row(where, value)


def _parquet(stream: io.BufferedIOBase, file: str) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        batches = parquet.ParquetFile(stream).iter_batches(batch_size=256)  # a row may hold pictures
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from (Row(f"{file} row {number}", row) for number, row in enumerate(rows, 1))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        problem = " ".join(str(error).split())[:160]
        raise ConfigError(f"{file} is not a whole Parquet file ({problem}): fetch it again") from error
