"""`python -m robokit`, which torchrun starts: the command `robokit`."""

import contextlib
import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    with contextlib.suppress(OSError):  # a folder that was removed
        if sys.path[:1] == [os.getcwd()]:
            del sys.path[0]  # as for `robokit`: a numpy.py in the working folder is not numpy

from robokit.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
