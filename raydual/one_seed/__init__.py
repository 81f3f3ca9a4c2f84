"""One seed alone, without Ray: every measurement, recordings as Dai's code reads them, the dual form."""
