"""Performance claims as scripts that print ratios; each runs as `python -m bench.<name>`.

`python -m bench.gpu` measures everything about a card at once.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every model is a local folder
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
