"""Trainers that step a `ProjectedOptimizer`: `svdproj.integrations.transformers` and `svdproj.integrations.trl`.

Each needs the library it is named after, and says which extra to install where that is missing.
"""
