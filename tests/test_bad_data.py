"""Whatever is wrong with a file: one line that names it and the row, at once, nothing left behind."""

import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from raydual.data.examples import load_dataset
from raydual.settings.reading import load_config, validate_config

from .tiny import BASE


def test_a_sweep_file_that_is_no_utf8_file(tmp_path, refused):
    path = tmp_path / "s.yaml"
    path.write_bytes(BASE.encode() + "# Qualité\n".encode("latin-1"))
    assert refused(path) == [
        f"{path}: cannot read the sweep file: line 5 is not UTF-8 text (it holds the byte 0xe9); save the file as UTF-8"
    ]
    path.write_bytes(BASE.encode("utf-16"))
    assert "line 1 is not UTF-8 text" in refused(path)[0]


def odd_file(kind: str, path: Path) -> Path:
    """Something at `path` that is no file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "circle":
        path.symlink_to(path.name)
    elif kind == "broken link":
        path.symlink_to("nowhere")
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    return path


ODD = {
    "pipe": "it is a pipe, a device or the like, not a file",
    "circle": "Too many levels of symbolic links",
    "broken link": "it is a link that leads nowhere",
    "directory": "it is a directory, not a file",
    "device": "it is a pipe, a device or the like, not a file",
    "nothing": "it does not exist",
}


@pytest.mark.parametrize("kind", ODD)
def test_a_sweep_file_that_is_no_file(kind, tmp_path, refused):
    (line,) = refused(odd_file(kind, tmp_path / "s.yaml"))
    assert line == f"{tmp_path / 's.yaml'}: cannot read the sweep file: {ODD[kind]}"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", ODD)
def test_data_that_are_no_file(kind, suffix, tmp_path, refused):
    path = odd_file(kind, tmp_path / f"d.{suffix}")
    (tmp_path / "s.yaml").write_text(BASE.replace("embedded", f"{{train: d.{suffix}}}"))
    (line,) = refused(tmp_path / "s.yaml")
    # A link is followed when the settings are read, so what it leads to is named.
    assert line.startswith("data: ")
    assert ODD[kind] in line or (kind == "broken link" and "nowhere" in line) or (kind == "device" and "/dev" in line)
    assert path.name in line or kind in ("broken link", "device")


# Data

ROWS = [{"sentence": f"text number {i}", "label": i % 2} for i in range(60)]


def jsonl(rows, **at) -> bytes:
    """Rows as JSON lines, with other content in those whose number (from 1) is given, as in `row_7={…}`."""
    rows = [at.get(f"row_{i}", row) for i, row in enumerate(rows, start=1)]
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def table(rows, at=None, delimiter=",") -> bytes:
    """Rows as CSV, with other lines in place of those whose number (from 1) is given."""
    lines = [delimiter.join((row["sentence"], str(row["label"]))) for row in rows]
    for number, line in (at or {}).items():
        lines[number - 1] = line
    return "\n".join([delimiter.join(("sentence", "label")), *lines, ""]).encode()


def held_out_and_kept() -> tuple[int, int]:
    """Numbers of a row that is held out and of one that is trained on, both of them not where they'd be counted."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "d.csv").write_bytes(table(ROWS))
        settings = {"name": "s", "task": "sst2", "data": f"{folder}/d.csv", "demonstrations": 4, "seeds": 1}
        dataset = load_dataset(validate_config(settings, "test"))
    return dataset.measured.rows[3], dataset.train.rows[40]


HELD_OUT, KEPT = held_out_and_kept()

DATA = {
    "a text label of a held-out row": (
        "d.csv",
        table(ROWS, {HELD_OUT: "a,good"}),
        f"d.csv (a fifth held out), row {HELD_OUT}: label 'good' is outside the task 'sst2', which has 0, 1",
    ),
    "a text label among the others": (
        "d.csv",
        table(ROWS, {KEPT: "a,good"}),
        f"d.csv, row {KEPT}: label 'good' is outside",
    ),
    "a text label in JSON": (
        "d.jsonl",
        jsonl(ROWS, **{f"row_{KEPT}": {"sentence": "a", "label": "good"}}),
        f"d.jsonl, row {KEPT}: label 'good' is",
    ),
    "a label in quotes": (
        "d.jsonl",
        jsonl(ROWS, **{f"row_{KEPT}": {"sentence": "a", "label": "1"}}),
        f"row {KEPT}: label '1' is outside the task 'sst2', which has 0, 1; give task.label_values in the kind",
    ),
    "a label too large": ("d.csv", table(ROWS, {KEPT: "a,2"}), f"d.csv, row {KEPT}: label '2' is outside"),
    "a label between": ("d.csv", table(ROWS, {KEPT: "a,0.5"}), f"d.csv, row {KEPT}: label '0.5' is outside"),
    "a long label": ("d.csv", table(ROWS, {KEPT: "a," + "x" * 5000}), f"d.csv, row {KEPT}: label 'xxx"),
    "an empty sentence": (
        "d.csv",
        table(ROWS, {HELD_OUT: ",1"}),
        f"row {HELD_OUT}: column 'sentence' holds '' instead of a text",
    ),
    "an empty label": ("d.csv", table(ROWS, {KEPT: "a,"}), f"d.csv, row {KEPT}: label '' is outside"),
    "a null": (
        "d.jsonl",
        jsonl(ROWS, row_2={"sentence": None, "label": 0}),
        "row 2: column 'sentence' holds None instead of a",
    ),
    "a missing key": (
        "d.jsonl",
        jsonl(ROWS, row_2={"label": 0}),
        "row 2: column 'sentence' holds None instead of a text",
    ),
    "a number as a text": (
        "d.jsonl",
        jsonl(ROWS, row_2={"sentence": 5, "label": 0}),
        "row 2: column 'sentence' holds 5",
    ),
    "half a surrogate pair": (
        "d.jsonl",
        jsonl(ROWS, row_2='{"sentence": "\\ud83d", "label": 0}'),
        "row 2: column 'sentence' holds '\\ud83d'",
    ),
    "a row too long": (
        "d.csv",
        table(ROWS, {5: "a,1,1"}),
        "d.csv cannot be read as csv: row 5 has 3 cells, the header has 2",
    ),
    "a row too short": (
        "d.tsv",
        table(ROWS, {5: "a"}, "\t"),
        "d.tsv cannot be read as tsv: row 5 has 1 cells, the header",
    ),
    "an open quote": ("d.csv", table(ROWS, {5: '"a,1'}), "d.csv cannot be read as csv: row 5: unexpected end of data"),
    "columns twice": ("d.csv", b"sentence,label,label\na,0,1\n", "d.csv has more than one column 'label'"),
    "keys twice": (
        "d.jsonl",
        jsonl(ROWS, row_3='{"sentence": "a", "label": 0, "label": 1}'),
        "row 3: the key 'label' is given twice",
    ),
    "other columns": ("d.csv", b'"a\nb",c\n1,2\n', "d.csv has no column 'sentence'; it has 'a\\nb', c"),
    "no rows": ("d.jsonl", b"", "d.jsonl has no column 'sentence'; it has none"),
    "a JSON list": (
        "d.json",
        json.dumps(ROWS).encode(),
        "d.json cannot be read as json: row 1 is not a JSON object; each line",
    ),
    "half a line of JSON": (
        "d.jsonl",
        jsonl(ROWS, row_4='{"sentence": '),
        "d.jsonl cannot be read as jsonl: row 4: Expecting value",
    ),
    "brackets": ("d.jsonl", jsonl(ROWS, row_4="[" * 100_000), "row 4: maximum recursion depth"),
    "a number of many digits": (
        "d.jsonl",
        jsonl(ROWS, row_4='{"sentence": "a", "label": ' + "1" * 5000 + "}"),
        "row 4: Exceeds the limit",
    ),
    "Latin-1 in CSV": (
        "d.csv",
        table(ROWS, {KEPT: "café,1"}).decode().encode("latin-1"),
        f"d.csv: line {KEPT + 1} is not UTF-8 text (it holds the byte 0xe9); save the file as UTF-8",
    ),
    "Latin-1 in JSON": (
        "d.jsonl",
        jsonl(ROWS, row_9='{"sentence": "café", "label": 1}').decode().encode("latin-1"),
        "d.jsonl: line 9 is not UTF-8",
    ),
    "UTF-16": ("d.csv", table(ROWS).decode().encode("utf-16"), "d.csv: line 1 is not UTF-8 text"),
    "no Parquet": ("d.parquet", b"PAR1" * 10, "d.parquet cannot be read as parquet"),
    "a sentence of 5,000 words to measure": (
        "d.csv",
        table(ROWS, {HELD_OUT: "word " * 5000 + ",1"}),
        f"d.csv (a fifth held out), row {HELD_OUT}: the example has",
    ),
    "a sentence of 5,000 words to show": (
        "d.csv",
        table(ROWS, {KEPT: "word " * 5000 + ",1"}),
        f"d.csv, row {KEPT}: the example has",
    ),
    "sentences that are too long together": (
        "d.csv",
        table([{**row, "sentence": "word " * 60} for row in ROWS]),
        "demonstrations: with 32 of them the shortest prompt has",
    ),
}


@pytest.mark.parametrize("mistake", DATA)
def test_a_mistake_in_the_data(mistake, tmp_path, refused):
    name, content, message = DATA[mistake]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "s.yaml").write_text(BASE.replace("embedded", name))
    (line,) = refused(tmp_path / "s.yaml")
    assert message in line


def test_a_long_example_is_told_with_its_tokens_and_the_context(tmp_path, refused):
    (tmp_path / "d.csv").write_bytes(table(ROWS, {KEPT: "word " * 5000 + ",1"}))
    (tmp_path / "s.yaml").write_text(BASE.replace("embedded", "d.csv"))
    (line,) = refused(tmp_path / "s.yaml")
    assert line.endswith("tokens with its label, but the context of embedded holds 2048; shorten it or leave it out")


def test_odd_but_sound_data_are_read(tmp_path, refused):
    text = table(ROWS[:40]).decode().replace("\n", "\r\n") + '\r\n"two\nlines, ""quoted""",1.0\r\n1999, 0\r\n'
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "s.yaml").write_text(BASE.replace("embedded", "{train: d.csv, validation: d.csv}"))
    found = load_dataset(load_config(tmp_path / "s.yaml")).train
    assert found.queries[-2:] == ('Sentence: two\nlines, "quoted" Label:', "Sentence: 1999 Label:")
    assert (found.labels[-2:], found.rows[-2:]) == ((1, 0), (41, 42))


def test_text_in_parquet_that_is_not_utf8_is_named(tmp_path, refused):
    texts = pa.array([b"fine"] * 50 + [b"caf\xe9"] + [b"fine"] * 9).view(pa.string())
    pa.parquet.write_table(pa.table({"sentence": texts, "label": [0, 1] * 30}), tmp_path / "d.parquet")
    (tmp_path / "s.yaml").write_text(BASE.replace("embedded", "d.parquet"))
    (line,) = refused(tmp_path / "s.yaml")
    assert "d.parquet, row 51: column 'sentence' holds text that is not UTF-8" in line
