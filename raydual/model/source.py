"""Where a model's files are, and whether they are a model that can be measured. Loads no torch."""

from dataclasses import dataclass
from pathlib import Path

import tokenizers

from raydual.embedded import MODEL_DIR
from raydual.errors import UserError
from raydual.files import is_directory, user_path
from raydual.loading import is_local_path
from raydual.model.checkpoint import check_weights, one_line, read_config


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
        if not is_local_path(self.name) and not is_directory(Path(self.name)):
            return None
        return user_path(self.name, Path.cwd(), "model")

    def file(self, name: str) -> Path:
        """The local path of one file of the model, fetched from the hub if need be.

        Raises
        ------
        UserError
            It is not there, or the hub is out of reach.
        """
        if self.directory is None:
            return _from_hub(self, name)
        if not is_directory(self.directory):
            raise UserError(f"model: {self.directory} is not a directory")
        path = self.directory / name
        if not path.is_file():
            raise UserError(f"model: {self.directory} has no {name}{_HINTS.get(name, '')}")
        return path

    def config(self) -> dict:
        """The model's config.json, checked to be of a family that is measured, with full attention.

        Raises
        ------
        UserError
            It cannot be measured (see `anatomy.refusal`), or its sizes don't fit each other.
        """
        return read_config(self.file("config.json"))

    def check(self, weights: bool = True) -> None:
        """Check what config and tokenizer tell, and the headers of local `weights`, in well under a second.

        Raises
        ------
        UserError
            The files are damaged or don't belong together.
        """
        vocabulary = self.config()["vocab_size"]
        if weights and self.directory is not None:
            self.weights_directory()
        largest = max(self.tokenizer().get_vocab().values(), default=-1)
        if largest < 0 or largest >= vocabulary:
            raise UserError(
                f"model: the tokenizer of {self.name} has ids up to {largest}, but config.json has embeddings for "
                f"{vocabulary} (vocab_size): they are of different models; take the tokenizer.json of this one"
            )

    def tokenizer(self) -> tokenizers.Tokenizer:
        """The model's tokenizer, set to neither cut nor pad."""
        path = self.file("tokenizer.json")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except BaseException as error:  # the binding raises nothing more specific, and panics are no `Exception`
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise UserError(f"model: {path} is not a readable tokenizer: {one_line(error)}") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def weights_directory(self) -> Path:
        """The local directory with config and safetensors weights that fit it, fetched from the hub if need be.

        Raises
        ------
        UserError
            No weights are there, or not those that the config asks for.
        """
        directory = _snapshot(self) if self.directory is None else self.directory
        check_weights(directory, self.config())
        return directory


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
