"""``python -m km`` is the command ``km``."""

from __future__ import annotations

import sys

from km.cli import main

sys.exit(main())
