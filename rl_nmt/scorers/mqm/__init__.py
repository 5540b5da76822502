"""MQM annotation by a language model behind a chat endpoint."""
