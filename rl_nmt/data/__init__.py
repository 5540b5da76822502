"""Where rows come from: streams, cleaning, snapshots, evaluation sets, tables."""
