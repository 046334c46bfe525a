"""Tests of the gateway: pure parts by property, the rest against real processes."""
