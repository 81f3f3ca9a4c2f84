"""From demonstration sets to metric rows: the conditions, the recordings and the replica. Plain PyTorch, no ray."""
