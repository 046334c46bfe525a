"""Secrets: where each one comes from, and what keeps it from showing up anywhere else.

Nothing here knows ``stack.yaml``: ``stack.app.sources`` turns what it says into the values of these modules.
"""
