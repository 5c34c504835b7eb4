"""Sources of instructions for training and for tables: a simulator by rules, and an LLM teacher."""
