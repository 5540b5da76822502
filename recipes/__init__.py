"""Further systems, one folder each: a script that composes rl_nmt, its settings and its story."""
