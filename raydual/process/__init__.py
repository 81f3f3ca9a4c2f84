"""This process: its signs of life while it computes, and the signals that end it."""
