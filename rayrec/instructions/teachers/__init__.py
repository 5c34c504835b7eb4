"""Sources of instructions: a rule-based simulator and an LLM teacher."""
