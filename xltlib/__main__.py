"""`python -m xltlib`: the same as `xlt`."""

import sys

from xltlib.cli import main

if __name__ == "__main__":  # worker processes import this module too
    sys.exit(main())
