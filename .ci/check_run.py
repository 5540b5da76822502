"""Did the pocket run end, and is the model better than before? Exit status 1 when not."""

import json
import sys
from pathlib import Path

result = json.loads((Path(sys.argv[1]) / "evaluation.json").read_text(encoding="utf-8"))
before, after = result["before"], result["after"]
for name in ("chrf", "reward"):
    print(f"held-out {name}: {before[name]:.3f} -> {after[name]:.3f}")
sys.exit(not (after["chrf"] > before["chrf"] and after["reward"] > before["reward"]))
