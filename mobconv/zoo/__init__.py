"""Architectures that mobconv's own fixtures and recipes use, one per file.

Any importable ``package.module:factory`` serves as well; these are the networks of the trained fixtures, so that a
clean checkout can convert one.
"""
