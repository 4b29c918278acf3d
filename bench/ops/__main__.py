"""`python -m bench.ops ...` is `python -m bench ops ...`."""

import sys

from bench.__main__ import run

if __name__ == "__main__":
    sys.exit(run(["ops", *sys.argv[1:]]))
