"""The HTML page of one sweep or of two, its plots and tables."""
