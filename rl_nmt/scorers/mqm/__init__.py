"""A language model as MQM annotator over a chat endpoint."""
