"""Imported in place of the package by `python bench/x.py`, where this folder comes first: print how to run it."""

import sys
from pathlib import Path

name = Path(sys.argv[0]).stem
print(f"error: run it from the repository's folder as `python -m bench.{name}`", file=sys.stderr)
sys.exit(2)
