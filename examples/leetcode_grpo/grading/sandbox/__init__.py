"""The untrusted side: what runs in the worker processes.

The package is loaded there on its own, under the name `sandbox`, by an interpreter without site-packages; so its
modules import the standard library and each other, nothing else. `values` is also used by the trusted side.
"""
