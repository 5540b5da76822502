"""`python -m rl_nmt.guards FILE`: how often the gates are wrong about a file of translations."""

from rl_nmt.errors import run
from rl_nmt.guards.report import main

run(main)
