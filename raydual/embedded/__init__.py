"""A small Qwen3 and a review corpus made by this project, so that a first run needs no download."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent
MODEL_DIR = ROOT / "model"
REVIEWS_DIR = ROOT / "reviews"

TASKS = ("sst2", "sst5")
SPLITS = ("train", "validation")


def reviews_file(task: str, split: str) -> Path:
    """The JSON-lines file of one split: `sentence`/`label` (0, 1) for sst2, `text`/`label` (0..4) for sst5."""
    if task not in TASKS:
        raise ValueError(f"unknown embedded task {task!r}; allowed: {', '.join(TASKS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of the embedded task {task}; allowed: {', '.join(SPLITS)}")
    return REVIEWS_DIR / task / f"{split}.jsonl"
