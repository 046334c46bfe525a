"""``stackctl``: a client of the admin API, plus the starting and stopping of the local processes."""
