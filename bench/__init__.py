"""Measure performance claims: scripts that print ratios; run each as `python -m bench.<name>`.

`python -m bench.gpu` runs all measurements of a card.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every model is a local folder
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
