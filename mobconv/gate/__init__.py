"""The gate: results checked against a budget, and against the baseline of earlier results."""
