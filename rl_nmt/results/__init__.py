"""The results of a run: evaluation, divergence, report, model card, export."""
