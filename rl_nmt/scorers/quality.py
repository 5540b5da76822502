"""Load a quality estimation model, chosen by what its checkpoint is: a COMET class without references, or MetricX-24.

All score from 0 to 1, the higher the better: COMETKiwi, XCOMET and AfriCOMET-QE by themselves, MetricX-24 as
(25 - error) / 25. Checkpoints whose scores have no known range are refused, published ones by name (hub.UNSUITABLE).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_nmt import hub
from rl_nmt.errors import ConfigError
from rl_nmt.models.loading import fetch
from rl_nmt.scorers.base import QUALITY_ESTIMATION, Scorer, Scores, Segment
from rl_nmt.scorers.comet import load_comet
from rl_nmt.scorers.metricx import load_metricx


def load_quality_estimation(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    linears: str = "auto",
    argument: str = "comet_qe_model",
) -> Scorer:
    """Load a scorer of (source, translation) with the range (0, 1) once; it stays on `device`.

    Args:
        name_or_path: a folder or hub name; a checkpoint with hparams.yaml is COMET's, others are known by config.json.
        device, dtype, argument: see `load_comet` and `load_metricx`; mT5 has no float16.
        linears: of a COMET model, see `load_comet`.

    Raises ConfigError for a model of unknown range or of another kind, and what the two loaders raise.
    """
    name = str(name_or_path)
    folder = fetch(argument, name, hub.scorer_file(name))
    options: dict[str, Any] = {"device": device, "dtype": dtype, "argument": argument}
    if hub.scorer_file(name) == hub.COMET:  # now that it is here
        return load_comet(name_or_path, linears=linears, classes=QUALITY_ESTIMATION, **options)
    kind = _kind(folder)
    if kind != "MT5ForRegression":
        raise ConfigError(f"{argument}: {name}: the scores of a {kind} have no known range; {hub.KNOWN_RANGE}")
    return Quality(load_metricx(name_or_path, **options))


def _kind(folder: Path) -> str:
    """Return the class that config.json names; for an mT5 without one it is MetricX'."""
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, named = described.get("model_type"), described.get("architectures")
    except (OSError, ValueError, AttributeError):
        return "checkpoint without a readable config.json"
    return named[0] if named else "MT5ForRegression" if kind == "mt5" else str(kind)


class Quality:
    """The errors of another scorer, 0 (perfect) to `worst`, as quality: (worst - error) / worst. A `Scorer`.

    References of segments are not shown to it.
    """

    range = (0.0, 1.0)
    higher_is_better = True

    def __init__(self, scorer: Any):
        self.scorer, self.name, self.worst = scorer, scorer.name, scorer.range[1]

    @property
    def stats(self) -> dict[str, float]:
        """Of the scorer's last call."""
        return self.scorer.stats

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Return one value per segment, 1 (perfect) to 0, in order; None where the scorer has none."""
        errors = self.scorer.score([Segment(segment.src, segment.mt) for segment in segments]).values
        return Scores([None if error is None else (self.worst - error) / self.worst for error in errors])

    def to(self, device: str) -> None:
        """Move the model permanently. Raises ConfigError for a missing device."""
        self.scorer.to(device)

    def signature(self) -> dict[str, dict]:
        """Return the scorer's own, with the scale in the identity."""
        signature = self.scorer.signature()
        scale = f"({self.worst:g} - score) / {self.worst:g}"
        return {**signature, "identity": {**signature["identity"], "scale": scale}}
