"""Pure functions of arrays (NumPy or torch alike), and statistics across seeds. Loads neither torch nor ray."""
