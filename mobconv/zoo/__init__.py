"""Architectures that mobconv's own fixtures and recipes use, one a file.

Any importable ``package.module:factory`` serves as well; these are here so that a clean
checkout has something trained to convert.
"""
