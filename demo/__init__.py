"""The project's own test hosts and the fleet demo. Not part of the product: nothing below ``stack/`` imports it."""
