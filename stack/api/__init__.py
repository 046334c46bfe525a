"""The admin API: HTTP in front of the ``Operator`` that ``stack.app`` builds. Decides nothing by itself."""
