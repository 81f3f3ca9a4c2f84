"""Numbers over seeds: means with intervals, paired comparisons, and the reduction of a run."""
