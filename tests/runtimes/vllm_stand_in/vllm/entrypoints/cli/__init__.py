"""Where the stand-in stands."""
