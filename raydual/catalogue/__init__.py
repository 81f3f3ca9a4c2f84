"""Every metric: what an entry says, the entries, what marks their functions, and a user's own."""
