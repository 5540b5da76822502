"""What a process does before its models are loaded."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = """
import sys
import psutil, torch
from rl_nmt.models.loading import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
rss = psutil.Process().memory_info
before = rss().rss
block = torch.ones(50_000_000)  # 200 MB
del block
print((rss().rss - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize(("word", "kept"), [("keep", True), ("plain", False)])
def test_freed_memory_is_kept_where_it_is_asked_for(word, kept):
    found = subprocess.run([sys.executable, "-c", KEPT, word], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (int(found.stdout) > 150) == kept
