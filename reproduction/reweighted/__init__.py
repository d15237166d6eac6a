"""The page on a reweighted model: which heads, which gains, and, where it was measured, what became of its answers."""
