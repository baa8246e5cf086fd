"""Evaluation: inference in batches, tasks with their metrics, output error, latency, input specification."""
