"""Where a model's files are, and whether they are a model that can be measured. Loads no torch."""

from dataclasses import dataclass, replace
from pathlib import Path

import tokenizers

from raydual.embedded import MODEL_DIR
from raydual.errors import UserError
from raydual.files import is_directory, user_path
from raydual.hub import NotThereError, Repository, model_file, model_files
from raydual.model.checkpoint import INDEX, SINGLE, check_weights, named_files, no_weights, one_line, read_config
from raydual.settings.reading import is_local_path


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

    @property
    def repository(self) -> Repository:
        """The model on the hub, for a hub id."""
        return Repository("model", self.name, self.revision)

    def commit(self) -> str | None:
        """The commit of a hub model that the revision stands for now; None for a local one.

        Raises
        ------
        UserError
            As `file`.
        """
        return self.file("config.json").parent.name if self.directory is None else None

    def file(self, name: str) -> Path:
        """The local path of one file of the model, fetched from the hub if need be.

        Raises
        ------
        UserError
            It is not there, or the hub is out of reach.
        """
        if self.directory is None:
            return self._from_hub(name)
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
        """Check what config and tokenizer tell, and of `weights` the headers of local ones, in well under a second.

        Of a hub model's weights it is checked that there are some.

        Raises
        ------
        UserError
            The files are damaged or don't belong together.
        """
        vocabulary = self.config()["vocab_size"]
        if weights and self.directory is not None:
            self.weights_directory()
        elif weights and (files := model_files(self.repository)) is not None and not files & {SINGLE, INDEX}:
            raise UserError(no_weights(f"{self.name!r} on the Hugging Face hub"))
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
        directory = self._fetched_weights() if self.directory is None else self.directory
        check_weights(directory, self.config())
        return directory

    def _from_hub(self, name: str) -> Path:
        try:
            return model_file(self.repository, name)
        except NotThereError:
            raise UserError(
                f"model: {self.name!r} on the Hugging Face hub has no {name}{_HINTS.get(name, '')}"
            ) from None

    def _fetched_weights(self) -> Path:
        """The folder of the cache that holds every file of a hub model's weights."""
        pinned = replace(self, revision=self.commit())
        for whole in (SINGLE, INDEX):
            try:
                found = model_file(pinned.repository, whole)
            except NotThereError:
                continue
            for name in named_files(found) if whole == INDEX else ():
                pinned._from_hub(name)
            return found.parent
        raise UserError(no_weights(f"{self.name!r} on the Hugging Face hub"))


_HINTS = {"tokenizer.json": "; save the model's fast tokenizer there with `save_pretrained`"}
