"""Runs its arguments as a command, where the server of commands is."""

import subprocess
import sys

if __name__ == "__main__":
    subprocess.run(sys.argv[1:], check=True)
