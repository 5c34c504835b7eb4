"""LLM engines: vLLM and transformers, behind one interface."""
