"""Readers of model file headers. They trust no count and no length: any bytes give metadata or ``HeaderInvalid``."""
