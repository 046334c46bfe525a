"""Settings: the state directory and ports (``home``), and the stack file (``stack_yaml``, imported when needed)."""

from stack.config.home import Home, Ports, home_from_environment, ports_from_environment

__all__ = ["Home", "Ports", "home_from_environment", "ports_from_environment"]
