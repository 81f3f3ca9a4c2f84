"""How alike are in-context learning and fine-tuning in Qwen3? Distributions over seeds, with controls."""
