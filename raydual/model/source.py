"""Where a model's files are, and whether they are a Qwen3 that can be measured. Loads no torch."""

import json
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from raydual.embedded import MODEL_DIR
from raydual.errors import UserError
from raydual.loading import is_local_path

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class ModelSource:
    """A model by name: `embedded`, a local directory, or a hub id at a revision."""

    name: str
    revision: str | None = None

    @property
    def directory(self) -> Path | None:
        """The local directory, or None for a hub id."""
        if self.name == "embedded":
            return MODEL_DIR
        path = Path(self.name).expanduser()
        return path if is_local_path(self.name) or path.is_dir() else None

    def file(self, name: str) -> Path:
        """The local path of one file of the model, fetched from the hub if need be.

        Raises
        ------
        UserError
            It is not there, or the hub is out of reach.
        """
        if self.directory is None:
            return _from_hub(self, name)
        if not self.directory.is_dir():
            raise UserError(f"model: {self.directory} is not a directory")
        path = self.directory / name
        if not path.is_file():
            raise UserError(f"model: {self.directory} has no {name}{_HINTS.get(name, '')}")
        return path

    def config(self) -> dict:
        """The model's config.json, checked to be a Qwen3 with full attention.

        Raises
        ------
        UserError
            It is another architecture, or attends through a sliding window.
        """
        path = self.file("config.json")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"model: {path} is not valid JSON: {error}") from None
        if not isinstance(config, dict):
            raise UserError(f"model: {path} is not a model's config: it is a {type(config).__name__}, not a mapping")
        kind = config.get("model_type")
        if kind != "qwen3":
            raise UserError(f"model: {self.name} is of type {kind!r}; raydual measures dense 'qwen3' models only")
        if "sliding_attention" in (config.get("layer_types") or ()) or config.get("use_sliding_window"):
            raise UserError(f"model: {self.name} attends through a sliding window, which raydual does not support")
        return config

    def tokenizer(self) -> tokenizers.Tokenizer:
        """The model's tokenizer, set to neither cut nor pad."""
        path = self.file("tokenizer.json")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the binding raises nothing more specific
            raise UserError(f"model: {path} is not a readable tokenizer: {error}") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def weights_directory(self) -> Path:
        """The local directory with config and safetensors weights, fetched from the hub if need be."""
        if self.directory is None:
            return _snapshot(self)
        if not any((self.directory / name).is_file() for name in _WEIGHTS):
            raise UserError(
                f"model: {self.directory} has no safetensors weights ({' or '.join(_WEIGHTS)}); pickled weights "
                "are never loaded: save them with `save_pretrained`"
            )
        return self.directory


_HINTS = {"tokenizer.json": "; save the model's fast tokenizer there with `save_pretrained`"}


def _from_hub(source: ModelSource, name: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(source.name, name, revision=source.revision))
    except Exception as error:  # the client raises many kinds, none of which a user can act on
        raise _hub_error(source, error) from None


def _snapshot(source: ModelSource) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                source.name, revision=source.revision, allow_patterns=["*.json", "*.safetensors"]
            )
        )
    except Exception as error:  # as above
        raise _hub_error(source, error) from None


def _hub_error(source: ModelSource, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
    return UserError(
        f"model: cannot load {source.name!r} from the Hugging Face hub ({type(error).__name__}: {reason}); "
        "connect to the hub, or set `model` to a local directory (or to `embedded`, which needs no download)"
    )
