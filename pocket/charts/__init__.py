"""The embedded world of the preference recipe: bar charts and shapes, questions about them, and a Gemma 3 that sees."""
