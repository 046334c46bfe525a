"""The store: one contract for every database, races, kills and damage."""
