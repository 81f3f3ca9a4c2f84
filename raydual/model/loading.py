"""Load a Qwen3 with raydual's attention, ready to be measured."""

from dataclasses import dataclass
from typing import Literal

import tokenizers
import torch
from transformers import Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from raydual.errors import UserError
from raydual.model.attention import ATTENTION, register
from raydual.model.source import ModelSource


@dataclass(frozen=True)
class LoadedModel:
    """A Qwen3 in evaluation mode with raydual's attention, no parameter trainable, and its tokenizer."""

    model: Qwen3ForCausalLM
    tokenizer: tokenizers.Tokenizer
    source: ModelSource

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device


def load_model(
    name: str = "embedded",
    *,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str | torch.device | None = None,
) -> LoadedModel:
    """Load `embedded`, a local directory or a hub id; on the GPU if there is one and `device` is None.

    Only safetensors weights are read, and no code that comes with a model is run.

    Raises
    ------
    UserError
        The model is not there, not a Qwen3, not readable, or the hub is out of reach.
    """
    source = ModelSource(name, revision)
    source.config()
    directory = source.weights_directory()
    register()
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model = Qwen3ForCausalLM.from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            attn_implementation=ATTENTION,
            use_safetensors=True,
            local_files_only=True,
        )
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise UserError(f"model: {directory} cannot be loaded ({type(error).__name__}: {error})") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    model.to(chosen)  # type: ignore[arg-type]  # its decorator hides the signature
    return LoadedModel(model.eval().requires_grad_(False), source.tokenizer(), source)
