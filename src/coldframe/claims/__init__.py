"""Published claims: what a paper says, what runs here, ours beside theirs with a verdict."""
