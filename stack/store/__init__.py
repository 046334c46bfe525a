"""What the program must not forget, and the only SQL there is.

``store`` opens it and gives transactions; ``rows`` are the values; ``schema`` and ``migrations`` are the tables;
``dialect`` is everything that differs between databases. What a state means, and when it may change, is decided above.
"""
