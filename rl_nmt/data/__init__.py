"""Load rows: streams, cleaning, snapshots, evaluation sets, tables."""
