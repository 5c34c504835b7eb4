"""Who writes explicit preferences and intentions: by rules from facets, or an LLM."""
