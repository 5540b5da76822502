"""Run notebooks/quickstart.ipynb without a browser: the CPU path, two steps. Exit status 1 if a result is missing."""

import os
import shutil
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
RUN = "runs/notebook"
SETTINGS = {"CPU": "1", "STEPS": "2", "RUN": RUN, "FLAGS": "--num_eval_samples 32 --eval_steps 0"}
EXPECTED = {  # in the output of a cell: the table, the curve, the samples, a translation
    "train": ["held-out, 32 rows", "chrF++"],
    "results": ["held-out, 32 rows", "chrF++", "[image/png]", "<th>Tamil after</th>"],
    "translate": ["\N{TAMIL SIGN VIRAMA}"],
}


def shown(cell) -> str:
    """Return what a cell has shown: its text and HTML, pictures as their type."""
    outputs = [(output.get("text", ""), output.get("data", {})) for output in cell.get("outputs", ())]
    return "".join(text + data.get("text/html", "") + "".join(f"[{kind}]\n" for kind in data) for text, data in outputs)


shutil.rmtree(ROOT / RUN, ignore_errors=True)
os.environ.update({f"RL_NMT_NOTEBOOK_{name}": value for name, value in SETTINGS.items()})
notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
nbformat.validate(notebook)
problems = []
try:
    NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
except CellExecutionError as error:
    problems = [f"a cell failed: {error.ename}: {error.evalue}"]
texts = {cell.id: shown(cell) for cell in notebook.cells}
print(*texts.values(), sep="")
problems = problems or [
    f"cell {name}: no {part!r}" for name in EXPECTED for part in EXPECTED[name] if part not in texts[name]
]
sys.exit("\n".join(problems) or 0)
