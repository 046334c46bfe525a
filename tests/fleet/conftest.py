"""The fleet's fixtures; what they build is in ``conftest_fleet``."""

from conftest_fleet import local, run_tool, source

__all__ = ["local", "run_tool", "source"]
