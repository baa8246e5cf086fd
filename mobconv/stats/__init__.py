"""Statistics: intervals and tests for scores and their differences."""
