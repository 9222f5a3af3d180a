"""``python -m splitnn`` is the ``splitnn`` command."""

import sys

from splitnn.cli.main import main

sys.exit(main())
