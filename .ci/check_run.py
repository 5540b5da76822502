"""Did the pocket run end, and is the model better than before? Exit status 1 when not."""

import json
import sys
from pathlib import Path

result = json.loads((Path(sys.argv[1]) / "evaluation.json").read_text(encoding="utf-8"))
before, after = result["before"], result["after"]
print(f"held-out chrF++ {before['chrf']:.1f} -> {after['chrf']:.1f}, reward {before['reward']:.3f} -> {after['reward']:.3f}")
sys.exit(not (after["chrf"] > before["chrf"] and after["reward"] > before["reward"]))
