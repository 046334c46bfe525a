"""Values everyone shares: digests, canonical JSON, releases, the clock, the error tree. No I/O but the clock's."""
