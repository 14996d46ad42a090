"""`python -m robokit`, which torchrun starts: the command `robokit`."""

import os
import sys

if __name__ == "__main__" and sys.path[:1] == [os.getcwd()] and not sys.flags.safe_path:
    del sys.path[0]  # as for `robokit`: a numpy.py in the working folder is not numpy

from robokit.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
