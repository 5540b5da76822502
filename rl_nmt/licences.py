"""Say whether a licence of a run's models forbids commercial use, from the table in licences.yaml. No torch.

The table has every model that the documents name. It is not legal advice, and says nothing about other models.
"""

import fnmatch
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Licence:
    """One row of the table. `models`: patterns of hub names; `terms`: what it asks of a model trained with them."""

    models: tuple[str, ...]
    part: str
    licence: str
    commercial: bool
    gated: bool = False
    terms: str = ""

    def __str__(self) -> str:
        return self.licence + " (gated)" * self.gated


@cache
def table() -> tuple[Licence, ...]:
    """Return the rows of licences.yaml."""
    rows = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return tuple(Licence(**{**row, "models": tuple(row["models"])}) for row in rows)


def licence(name: str) -> Licence | None:
    """Return the row of a model by its hub name, also with @revision; None if the table does not have it.

    >>> [str(licence(name)) for name in ("facebook/nllb-200-distilled-1.3B", "Unbabel/XCOMET-XL@v1", "me/mine")]
    ['CC-BY-NC-4.0', 'CC-BY-NC-SA-4.0 (gated)', 'None']
    """
    repository = name.partition("@")[0]
    return next((row for row in table() if any(fnmatch.fnmatchcase(repository, p) for p in row.models)), None)


def commercial_use(models: Iterable[str]) -> str:
    """Return one line: which licence of these models forbids commercial use, or which of them are unknown.

    `models`: hub names, also with @revision, or local folders. A folder has the licence of the model that its own
    config.json (`_name_or_path`) or adapter_config.json (`base_model_name_or_path`) names; without one it is unknown.

    >>> commercial_use(["google/gemma-3-1b-it", "Unbabel/wmt22-comet-da"])
    'no licence named here forbids commercial use; pass on the Gemma Terms of Use'
    >>> commercial_use(["facebook/nllb-200-3.3B@main", "me/mine"])
    'commercial use is forbidden by facebook/nllb-200-3.3B (CC-BY-NC-4.0); unknown: read the card of me/mine'
    """
    found = {name: licence(name) for name in map(_origin, filter(None, models))}
    forbidden = [f"{name} ({row.licence})" for name, row in found.items() if row and not row.commercial]
    unknown = [name for name, row in found.items() if not row]
    terms = dict.fromkeys(row.terms for row in found.values() if row and row.terms)
    said = [f"commercial use is forbidden by {', '.join(forbidden)}"] if forbidden else []
    said += [f"unknown: read the card of {', '.join(unknown)}"] if unknown else []
    return "; ".join([*(said or ["no licence named here forbids commercial use"]), *terms])


def _origin(name: str) -> str:
    """Return a model's hub name without its revision; of a local folder the one in its configuration, or its name."""
    path = Path(name).expanduser()
    if not path.exists():  # a path keeps its last part alone: model cards are public
        return name.partition("@")[0] if name[0] not in "./~" and name.count("/") == 1 else path.name
    for file, key in (("adapter_config.json", "base_model_name_or_path"), ("config.json", "_name_or_path")):
        try:
            origin = json.loads((path / file).read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(origin, str) and licence(origin):
            return origin.partition("@")[0]
    return path.resolve().name
