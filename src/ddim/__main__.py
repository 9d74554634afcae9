"""Run `python -m ddim`, for systems in which the script `ddim` is not on the path."""

import sys

from ddim.cli import main

if __name__ == "__main__":
    sys.exit(main())
