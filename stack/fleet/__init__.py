"""Hosts: the inventory's values, the one door to Ansible, and what came back through it.

Nothing here decides what to do on a host, and nothing here believes Ansible's account of what happened: the outcome is
what the host's own fence recorded and what runs there now.
"""

from stack.fleet.door import AnsibleDoor
from stack.fleet.values import Host, HostEvent, HostNotDescribed, Operation, OperationResult
from stack.fleet.variables import VariableRefused

__all__ = ["AnsibleDoor", "Host", "HostEvent", "HostNotDescribed", "Operation", "OperationResult", "VariableRefused"]
