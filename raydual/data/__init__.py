"""From data files to tokens: examples, demonstrations, prompts."""
