"""What can go wrong with test hosts, told apart by what somebody would do about it."""

from __future__ import annotations


class HostsFailed(Exception):
    """Something that should have worked here did not; the text says what."""


class HostsImpossible(HostsFailed):
    """This machine does not permit such hosts (not root, no namespaces, a program is missing)."""
