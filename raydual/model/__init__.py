"""The model: anatomy, loading, custom attention, recordings and key/value fine-tuning. Plain PyTorch, no ray."""
