"""From predictions to evidence: scores with intervals, controls, cost, and one report."""
