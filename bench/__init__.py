"""Measures what README claims. ``python -m bench`` prints one table; figures are not tests, no build fails on them."""
