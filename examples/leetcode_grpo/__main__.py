"""`python -m examples.leetcode_grpo`."""

import sys

from examples.leetcode_grpo.errors import missing_package

if __name__ == "__main__":
    try:
        from examples.leetcode_grpo.cli import main

        main()
    except ModuleNotFoundError as error:
        if (line := missing_package(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
