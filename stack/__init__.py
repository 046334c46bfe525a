"""inference-stack: run LLM inference on hosts you own, and prove every step."""

__version__ = "0.1.0"
