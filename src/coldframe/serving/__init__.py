"""Serving: a gateway that takes plain text, and clients of servers that hold the model."""
