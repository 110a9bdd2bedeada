"""Runs the command `python -m pipeline.standalone`."""

import sys

from pipeline.standalone.command import main

if __name__ == "__main__":
    sys.exit(main())
