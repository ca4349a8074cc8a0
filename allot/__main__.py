"""``python -m allot`` is the command ``allot``."""

import sys

from allot.cli import main

sys.exit(main())
