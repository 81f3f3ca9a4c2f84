"""`python -m raydual` is `raydual`."""

import sys

from raydual.commands import main

if __name__ == "__main__":
    sys.exit(main(program="python -m raydual"))
