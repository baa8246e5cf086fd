"""Shared by all floors: whole files, locks, memory, kinds of files, numbers as text."""
