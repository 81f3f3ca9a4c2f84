"""From demonstration sets to metric rows: the conditions, the recordings and the measurer. Plain PyTorch, no ray."""
