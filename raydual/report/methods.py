"""What was run, in words: a paragraph for a paper, whom to cite, and the settings one by one."""

from raydual.report.data import Row, RunData
from raydual.settings.controls import Control


def subtitle(data: RunData) -> str:
    """The model, the task and how many seeds, in a line."""
    config, measured = data.config, _measured(data)
    return (
        f"{config.model} on {config.task.name}, {config.demonstrations} demonstrations, {measured} "
        f"{'seed' if measured == 1 else 'seeds'}{f', {len(data.controls)} controls' if data.controls else ''}"
    )


def methods(data: RunData) -> str:
    """A paragraph that says what was done, so that it can be done again."""
    config, versions = data.config, data.manifest.get("versions", {})
    tuning = data.manifest.get("finetune") or config.finetune.model_dump(mode="json")
    commit = data.manifest.get("model_commit")
    parts = [
        f"We measured {config.model}{f' (commit {commit})' if commit else ''} in {config.dtype} on {config.task.name} "
        f"with raydual{f' {found}' if (found := versions.get('raydual')) else ''}, after Dai et al. (2023) with the "
        "corrections of Deutch et al. (2024).",
        f"Each of {_measured(data)} seeds draws {config.demonstrations} demonstrations; the same queries are then "
        "answered zero-shot, with the demonstrations in the context, and after fine-tuning the attention's "
        f"{' and '.join(name.removesuffix('_proj') for name in tuning['projections'])} projections on them "
        f"({tuning['optimizer']}, learning rate {tuning['learning_rate']:g}, {tuning['epochs']} "
        f"epoch{'s' if tuning['epochs'] > 1 else ''}, loss over {tuning['loss']} tokens).",
        _chosen(data),
        f"Controls: {'; '.join(map(_control, data.controls))}." if data.controls else "No control was run.",
        "Numbers are means over seeds with 95 % BCa bootstrap intervals "
        f"({config.measures.resamples} resamples); paired differences are tested by sign flips, corrected by max-T, "
        "and for equivalence by two one-sided tests"
        f"{f' with a margin of {config.measures.margin} of the largest value' if config.measures.margin else ''}.",
    ]
    if versions:
        parts.append(f"Versions: {', '.join(f'{name} {found}' for name, found in versions.items())}.")
    if failed := len(data.run.failures()):
        parts.append(f"{failed} could not be measured, for the reasons given.")
    return " ".join(parts)


def _measured(data: RunData) -> int:
    zero_shot = data.overall("accuracy", "zsl")
    return zero_shot["n"] if zero_shot else 0


def _control(control: Control) -> str:
    return control.label[0].lower() + control.label[1:]


def _chosen(data: RunData) -> str:
    search = data.config.search
    chosen = [
        *(["seeds by in-context accuracy"] if search.seeds else []),
        *(["the fine-tuning setting by fine-tuned accuracy"] if search.finetune else []),
    ]
    if not chosen:
        return "Nothing was chosen by its result."
    where = "the very examples that are measured" if data.config.protocol == "dai" else "examples that are not measured"
    return f"We chose {' and '.join(chosen)} on {where}."


def bibtex() -> str:
    """The entries of what the measures come from."""
    return _BIBTEX


_BIBTEX = """\
@inproceedings{dai2023gpt,
  title = {Why Can {GPT} Learn In-Context? Language Models Implicitly Perform Gradient Descent as Meta-Optimizers},
  author = {Dai, Damai and Sun, Yutao and Dong, Li and Hao, Yaru and Ma, Shuming and Sui, Zhifang and Wei, Furu},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2023},
  year = {2023},
  note = {arXiv:2212.10559}
}
@misc{deutch2023revisited,
  title = {In-context Learning and Gradient Descent Revisited},
  author = {Deutch, Gilad and Magar, Nadav and Natan, Tomer Bar and Dar, Guy},
  year = {2023},
  note = {arXiv:2311.07772}
}
@misc{raydual,
  title = {raydual: how alike are in-context learning and fine-tuning, over seeds and against controls},
  author = {{The raydual authors}},
  note = {Apache-2.0}
}"""


def facts(data: RunData) -> list[tuple[str, str]]:
    """What was run, as (name, value) pairs."""
    config = data.config
    zero_shot = data.overall("accuracy", "zsl")
    measured = zero_shot["n"] if zero_shot else 0
    tuning = data.manifest.get("finetune") or config.finetune.model_dump(mode="json")
    searched = "chosen by the search" if config.search.finetune else "as the sweep says"
    candidates = f", the best of {len(config.seeds)} candidates" if config.search.seeds else ""
    facts = [
        ("Model", f"{config.model} ({config.dtype})"),
        (
            "Task",
            f"{config.task.name}: “{config.task.template}”, labels {', '.join(config.task.label_words)}",
        ),
        (
            "Data",
            config.data if isinstance(config.data, str) else f"{config.data.train}, {config.data.validation}",
        ),
        ("Demonstrations", f"{config.demonstrations}, joined by {config.task.separator!r}"),
        ("Seeds", f"{measured} measured{candidates}; {len(data.run.failures())} failed"),
        (
            "Fine-tuning",
            f"{tuning['optimizer']}, learning rate {tuning['learning_rate']:g}, {tuning['epochs']} epoch(s), "
            f"{'one step for all demonstrations, ' if tuning.get('batch') == 'all' else ''}"
            f"loss over {tuning['loss']} tokens, {' and '.join(tuning['projections'])}; {searched}",
        ),
        ("Protocol", _PROTOCOLS[config.protocol]),
    ]
    return facts + _from_manifest(data.manifest)


_PROTOCOLS = {
    "split": "split: chosen on selection examples, measured on others",
    "dai": "dai: chosen and measured on the same examples, which inflates the numbers",
}


def _from_manifest(manifest: Row) -> list[tuple[str, str]]:
    if not manifest:
        return []
    seconds = ", ".join(f"{stage} {value:.0f} s" for stage, value in manifest["seconds"].items())
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    hardware = manifest["hardware"].get("ray", "reduced from what had been measured before")
    return [
        ("Hardware", hardware),
        ("Time", seconds),
        ("Versions", versions),
        ("Finished", manifest["finished_at"]),
    ]
