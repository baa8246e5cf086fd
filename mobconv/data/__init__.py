"""Data: labelled images, and the preprocessing between pixels and a network."""
