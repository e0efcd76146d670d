"""`python -m examples.leetcode_grpo`."""

from examples.leetcode_grpo.cli import main

if __name__ == "__main__":
    main()
