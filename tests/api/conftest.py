"""People with keys, and policies to be changed, stand in tests/rollout."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "rollout"))
