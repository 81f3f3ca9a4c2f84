"""The plain oracle: what docs/science.md defines, by eager attention, one prompt at a time, and loops."""
