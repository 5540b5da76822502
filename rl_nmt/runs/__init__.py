"""A run on disk: its folder, checkpoints, metrics and trackers."""
