"""Tasks as data: examples, seeded demonstration sets, prompts and their token spans. Loads no torch."""
