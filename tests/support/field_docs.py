"""Read the sentences that `--help` shows, including those of sections."""

import dataclasses
import typing

from rl_nmt import config


def field_docs(cls: type) -> dict[str, str]:
    """Return dotted name → sentence; '' if a field has none."""
    docs = config.own_docs(cls)
    for name, kind in typing.get_type_hints(cls).items():
        if name in docs and dataclasses.is_dataclass(kind):
            docs |= {f"{name}.{below}": text for below, text in field_docs(kind).items()}
    return docs
