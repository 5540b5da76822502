"""Run any scorer in a process of its own."""
