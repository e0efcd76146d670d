"""Reward hacking on programming tasks, with and without a projected optimizer: the worked example of `svdproj`.

`python -m examples.leetcode_grpo --help` lists what it can do; README.md walks through it.
"""
