"""`python -m robokit`, which torchrun starts: the command `robokit`."""

import sys

from robokit.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
