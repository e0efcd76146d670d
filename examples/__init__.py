"""Worked examples; each folder is a package with its own command line."""
