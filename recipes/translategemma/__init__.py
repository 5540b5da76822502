"""TranslateGemma-style training (arXiv 2601.09012): a metric ensemble with token-level credit, any language pair."""
