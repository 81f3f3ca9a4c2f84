"""The files that a run leaves: what is in them, how they are written whole, and how damage is found."""
