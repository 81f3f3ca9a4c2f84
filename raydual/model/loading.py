"""Load a model with raydual's attention, ready to be measured."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from raydual.errors import UserError
from raydual.model.anatomy import EMBEDDING, UNEMBEDDING
from raydual.model.attention import ATTENTION, register
from raydual.model.checkpoint import one_line
from raydual.model.modules import unembedding
from raydual.model.source import ModelSource


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with raydual's attention, no parameter trainable, and its tokenizer."""

    model: PreTrainedModel
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
        The model is not there, of no family that is measured, not readable or not whole, or the hub is out of reach.
    """
    source = ModelSource(name, revision)
    source.check()
    directory = source.weights_directory()
    register()
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        with _silent_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=getattr(torch, dtype),
                attn_implementation=ATTENTION,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"model: {directory} cannot be loaded ({reason}); its config.json or weights are damaged"
        ) from error
    model: PreTrainedModel = loaded[0]
    _check_loaded(loaded[1], directory)
    model.to(chosen)  # type: ignore[arg-type]  # its decorator hides the signature
    _check_values(model, directory)
    return LoadedModel(model.eval().requires_grad_(False), source.tokenizer(), source)


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """No progress bars, and no reports of what is wrong: that is raised."""
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _check_loaded(found: Mapping[str, Any], directory: Path) -> None:
    """Refuse a model of which anything is not as in the file, whatever the headers have said."""
    for kind, names in found.items():
        if names:
            first = sorted(map(str, names))[0]
            raise UserError(f"model: {directory} cannot be loaded whole: {kind.replace('_', ' ')}, such as {first}")


def _check_values(model: PreTrainedModel, directory: Path) -> None:
    """Refuse weights that are no numbers, and a tied model that has another unembedding."""
    if model.config.tie_word_embeddings and unembedding(model).weight is not model.get_input_embeddings().weight:
        raise UserError(
            f"model: {directory}: config.json says that {UNEMBEDDING} is {EMBEDDING} "
            "(tie_word_embeddings), but the file holds another one; correct the config"
        )
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if not all(torch.isfinite(extreme) for extreme in torch.aminmax(values.detach())):
            raise UserError(
                f"model: {directory}: {name} holds NaN or infinite values in {str(values.dtype).removeprefix('torch.')}"
                "; the file is damaged, or the model was trained to ruin: take another copy or another model"
            )
