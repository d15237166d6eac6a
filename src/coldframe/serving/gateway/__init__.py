"""The gateway: plain text in, retrieval and soft tokens inside, answers out."""
