"""The data plane: an OpenAI-compatible HTTP/1.1 gateway that needs a routing table and nothing else (see design.md)."""
