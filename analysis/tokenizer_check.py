"""Whether a tokenizer suits the built-in tasks, and how long their prompts are with it; no model is needed.

    python analysis/tokenizer_check.py tokenizer.json
    python analysis/tokenizer_check.py tokenizer.json --task sst2 --data DIR     # beside the benchmark's stand-in

For each task: the label words as tokens, as they stand in the prompt. For one with data (as in a sweep): how many
tokens of the demonstrations and queries are the same alone and in the prompt, and the lengths of prompts.
docs/models.md has what was found with the tokenizers of Qwen3 and SmolLM2.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import tokenizers
from benchmark_setup import stand_in_tokenizer

from raydual.data.examples import Examples, load_dataset
from raydual.data.prompts import DemonstrationSet, label_tokens
from raydual.data.tokens import encode
from raydual.errors import UserError
from raydual.settings.reading import validate_config
from raydual.settings.task import Task, builtin_tasks
from raydual.study import Study

SEEDS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path, help="a tokenizer.json")
    parser.add_argument("--task", default="sst2", choices=tuple(builtin_tasks()))
    parser.add_argument("--data", type=Path, help="the task's data: a file or directory, as in a sweep")
    parser.add_argument("--separator", default=" ", help="between demonstrations (default: a space)")
    args = parser.parse_args()
    tokenizer = tokenizers.Tokenizer.from_file(str(args.tokenizer))
    print("| task | label words as tokens |\n| --- | --- |")
    for name, settings in builtin_tasks().items():
        print(f"| {name} | {label_words(tokenizer, Task.model_validate(settings))} |")
    if args.data:
        task = {"name": args.task, "separator": args.separator}
        data = str(args.data.absolute())
        settings = {"name": "check", "task": task, "data": data, "seeds": SEEDS, "measures": {"keep_first_token": True}}
        config = validate_config(settings, "arguments")
        study = Study(config, load_dataset(config))
        for title, found in (("this tokenizer", tokenizer), ("the stand-in", stand_in_tokenizer(study))):
            print(f"\n{args.task} with {title}:")
            for line in prompts(found, study):
                print(f"- {line}")


def label_words(tokenizer: tokenizers.Tokenizer, task: Task) -> str:
    """The tokens of each word, or why they can't be told apart."""
    try:
        words = label_tokens(tokenizer, task)
    except UserError as error:
        return f"NOT USABLE: {error}"
    parts = (f"{word!r}: {' + '.join(map(str, tokens))}" for word, tokens in zip(task.label_words, words, strict=True))
    many = [word for word, tokens in zip(task.label_words, words, strict=True) if len(tokens) > 1]
    return "; ".join(parts) + (f" (of several tokens: {', '.join(many)})" if many else "")


def prompts(tokenizer: tokenizers.Tokenizer, study: Study) -> list[str]:
    """Lengths, and how many tokens cover the same characters alone and in the prompt."""
    queries = study.queries(tokenizer, "measured")
    sets = [study.demonstrations(tokenizer, seed) for seed in study.config.seeds]
    return [
        f"{tokens_a_word(tokenizer, study.dataset.train):.3f} tokens a word of the training queries",
        f"a query: {spread([len(query) for query in queries.in_context])} tokens",
        f"{study.config.demonstrations} demonstrations: {spread([len(found.prefix) for found in sets])} tokens",
        "tokens that cover the same characters alone and in the prompt: "
        f"{sum(map(len, queries.aligned_alone))} of {sum(map(len, queries.alone))} of the queries, "
        f"{sum(len(found.token_index) for found in sets)} of "
        f"{sum(len(example) for found in sets for example in found.examples)} of the demonstrations; the same token, "
        f"but for the first ones: {'yes' if all(map(same, sets)) else 'NO'}",
        f"tokens between demonstrations and query: {len(queries.separator)}",
    ]


def same(found: DemonstrationSet) -> bool:
    """Whether every pair but a demonstration's first token is one token in both places."""
    alone = np.concatenate(found.examples)
    starts = np.cumsum([0, *map(len, found.examples)])
    pairs = alone[starts[found.example_index] + found.token_index] == found.prefix[found.prefix_index]
    return bool(pairs[found.token_index > 0].all())


def tokens_a_word(tokenizer: tokenizers.Tokenizer, examples: Examples) -> float:
    words = sum(len(query.split()) for query in examples.queries)
    return sum(map(len, encode(tokenizer, examples.queries))) / words


def spread(lengths: list[int]) -> str:
    return f"{min(lengths)} to {max(lengths)}, mean {statistics.fmean(lengths):.1f}"


if __name__ == "__main__":
    main()
