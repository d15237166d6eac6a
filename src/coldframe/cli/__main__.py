"""``python -m coldframe.cli``."""

import sys

from coldframe.cli import main

sys.exit(main())
