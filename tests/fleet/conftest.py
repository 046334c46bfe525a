"""The fleet's fixtures; what they build is in ``conftest_fleet`` and ``conftest_hosts``."""

from conftest_fleet import local, run_tool, source
from conftest_hosts import host_group, reach

__all__ = ["host_group", "local", "reach", "run_tool", "source"]
