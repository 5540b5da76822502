"""Choose the precision of a reward's COMET models by what it costs their scores."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rl_nmt.hub import COMET, ModelUse
from rl_nmt.models.loading import half_types
from rl_nmt.scorers.comet.scorer import load_comet

LARGEST_ERROR = 5e-3  # score difference from float32 that a lower precision may make


def choose_dtype(models: Sequence[ModelUse], device: str) -> str:
    """Return the device's first half precision whose error is at most LARGEST_ERROR in every model, else float32.

    The error is that of `CometScorer.error_of`, over texts of all lengths; it is printed on standard error. The COMET
    models among `models` are loaded one after the other and dropped again; on a CPU none is loaded and the result is
    float32 (see `half_types`). Raises as `load_comet`.
    """
    errors = dict.fromkeys(half_types(device), 0.0)
    for model in [model for model in models if model.filename == COMET] if errors else ():
        scorer = load_comet(model.name, device=device, argument=model.setting)
        errors = {dtype: max(error, scorer.error_of(dtype)) for dtype, error in errors.items()}
        del scorer  # free its memory before the next one is loaded
    chosen = next((dtype for dtype, error in errors.items() if error <= LARGEST_ERROR), "float32")
    if chosen in errors:
        why = f"largest score difference {errors[chosen]:.1e}"
    else:
        why = ", ".join(f"{dtype} changes scores by up to {error:.1e}" for dtype, error in errors.items())
    print(f"reward_dtype auto: {chosen} ({why or f'on {device}'})", file=sys.stderr, flush=True)
    return chosen
