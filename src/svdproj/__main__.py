"""`python -m svdproj`: the command line."""

from svdproj.cli import main

main()
