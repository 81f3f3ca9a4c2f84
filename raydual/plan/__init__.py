"""The pure rules of a run: what it costs, how replicas lie, which seeds go on, how far it is. No torch, no ray."""
