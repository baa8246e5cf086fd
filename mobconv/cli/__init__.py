"""The command line: one file a command, words for people, tables, colours and progress."""
