"""Home, ports and the stack file."""
