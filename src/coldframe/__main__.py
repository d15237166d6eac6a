"""``python -m coldframe``."""

import sys

from coldframe.cli import main

sys.exit(main())
