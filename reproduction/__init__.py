"""Models and numbers of the documentation, made again."""
