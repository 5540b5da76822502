"""The numbers at the end: evaluation, divergence, report, model card, export."""
