"""The registry: artifacts admitted by digest, checked at every hand-over, and handed out as directories.

Files only; which release uses an artifact, and when it may go, is known above.
"""

from __future__ import annotations

from stack.registry.admit import register
from stack.registry.catalogue import VerifyReport, list_models, show, verify
from stack.registry.difference import Difference, difference
from stack.registry.manifest import Manifest, load_manifest
from stack.registry.progress import Progress
from stack.registry.scrub import ScrubReport, scrub
from stack.registry.store import ContentStore

__all__ = [
    "ContentStore",
    "Difference",
    "Manifest",
    "Progress",
    "ScrubReport",
    "VerifyReport",
    "difference",
    "list_models",
    "load_manifest",
    "register",
    "scrub",
    "show",
    "verify",
]
