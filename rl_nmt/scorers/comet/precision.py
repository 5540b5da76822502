"""Choose the precision of a reward's metrics by what it costs their scores."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from rl_nmt.hub import COMET, ModelUse
from rl_nmt.models.loading import half_types
from rl_nmt.scorers.comet.scorer import PROBE, load_comet
from rl_nmt.scorers.quality import load_quality_estimation

LARGEST_ERROR = 5e-3  # score difference from float32 that a lower precision may make


def choose_dtype(models: Sequence[ModelUse], device: str) -> str:
    """Return the device's first half precision whose error is at most LARGEST_ERROR in every model, else float32.

    The error is that of `CometScorer.error_of`, over texts of all lengths; it is printed on standard error. The metrics
    among `models` are loaded one after the other and dropped again; on a CPU none is loaded and the result is float32
    (see `half_types`). Raises as `load_comet` and `load_quality_estimation`.
    """
    errors = dict.fromkeys(half_types(device), 0.0)
    for model in models if errors else ():
        if model.filename == COMET:
            scorer = load_comet(model.name, device=device, argument=model.setting)
            errors = {dtype: max(error, scorer.error_of(dtype)) for dtype, error in errors.items()}
            del scorer  # free its memory before the next one is loaded
        elif model.part == "comet_qe":
            exact = _scores(model, device, "float32")
            errors = {dtype: max(error, _error(model, device, dtype, exact)) for dtype, error in errors.items()}
    chosen = next((dtype for dtype, error in errors.items() if error <= LARGEST_ERROR), "float32")
    if chosen in errors:
        why = f"largest score difference {errors[chosen]:.1e}"
    else:
        why = ", ".join(f"{dtype} changes scores by up to {error:.1e}" for dtype, error in errors.items())
    print(f"reward_dtype auto: {chosen} ({why or f'on {device}'})", file=sys.stderr, flush=True)
    return chosen


def _scores(model: ModelUse, device: str, dtype: str) -> list[float | None]:
    """Return the scores of a MetricX over PROBE; its weights are of one precision, so it is loaded for each."""
    return load_quality_estimation(model.name, device=device, dtype=dtype, argument=model.setting).score(PROBE).values


def _error(model: ModelUse, device: str, dtype: str, exact: list[float | None]) -> float:
    if dtype == "float16":  # mT5 overflows
        return math.inf
    pairs = zip(exact, _scores(model, device, dtype), strict=True)
    return max(math.inf if value is None else abs(right - value) for right, value in pairs if right is not None)
