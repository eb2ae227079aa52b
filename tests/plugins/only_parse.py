"""Parses a command line of the program as it would, and does nothing of it.

python only_parse.py MODULE ARGUMENTS
"""

import runpy
import sys

from absl import app

if __name__ == "__main__":
    # Flags, config, overrides and kinds are read by what is given to parse them.
    app.run = lambda main, flags_parser: flags_parser(sys.argv)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
