"""LLM engines: vLLM and transformers, with one interface."""
