"""Written answers to questions: systems that give them, what is kept of them, and how systems differ."""
