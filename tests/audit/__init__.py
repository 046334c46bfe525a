"""The audit chain: golden bytes, and tampering of every kind."""
