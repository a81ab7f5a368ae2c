"""The table of sequences: its schema, readers, duplicate counts and features."""
