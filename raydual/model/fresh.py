"""Models of the same architecture with freshly initialised weights (docs/science.md, section 5)."""

import torch

from raydual.model.anatomy import of_projection
from raydual.model.loading import LoadedModel


@torch.no_grad()
def fresh_model(loaded: LoadedModel, seed: int, keep_embeddings: bool) -> LoadedModel:
    """A model as `loaded` was before it was trained: transformers' own initialisation of its architecture.

    `keep_embeddings` keeps the trained embeddings, all norms and the unembedding, so that only the projections of the
    blocks are new. The same `seed` gives the same weights on one kind of device.
    """
    devices = [loaded.device] if loaded.device.type == "cuda" else []
    with torch.random.fork_rng(devices), loaded.device:
        torch.manual_seed(seed)
        fresh = type(loaded.model)(loaded.model.config)
    fresh.to(loaded.model.dtype)  # type: ignore[arg-type]  # its decorator hides the signature
    if keep_embeddings:
        trained = dict(loaded.model.named_parameters())
        for name, parameter in fresh.named_parameters():
            if not of_projection(name):
                parameter.copy_(trained[name])
    return LoadedModel(fresh.eval().requires_grad_(False), loaded.tokenizer, loaded.source)
