"""Reading data: the formats agree, and what is wrong is named by file, row and key."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from rollout_workers.tasks.data import DataError, HubSource, load_rows, read_file

ROWS = [{"question": "1 + 1 =", "answer": "2"}, {"question": "é?", "answer": "è"}]
COLUMNS = {"question": str, "answer": str}


def write(path: Path, rows=ROWS) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        path.write_text("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in rows))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet", "rows.csv"])
def test_every_format_gives_the_same_rows(tmp_path, name) -> None:
    assert list(read_file(write(tmp_path / name), key="k").check(COLUMNS).rows) == ROWS


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, name) -> None:
    path = write(tmp_path / name)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(read_file(path, key="k").rows) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.jsonl",
            b'{"question": "x", "answer": "1"}\n{"question": "x"}\n',
            ["a.jsonl", "row 2", "'answer' is missing"],
        ),
        ("a.jsonl", b'{"question": "x", "answer": 1}\n', ["a.jsonl", "row 1", "'answer' is 1", "text"]),
        ("a.jsonl", b'{"question": "x", "answer": null}\n', ["row 1", "'answer' is None"]),
        ("a.jsonl", b'{"question": "x", "answer": "1"}\n\n{"question"\n', ["a.jsonl", "line 3", "not JSON"]),
        ("a.jsonl", b"[1]\n", ["a.jsonl", "line 1", "[1]", "an object"]),
        ("a.jsonl", b"", ["a.jsonl", "no rows", "question, answer"]),
        ("a.jsonl", b"\xff\xfe\n", ["a.jsonl", "UTF-8"]),
        ("a.jsonl.gz", b"plain", ["a.jsonl.gz", "cannot be read"]),
        ("a.jsonl.gz", gzip.compress(b'{"question": "x"}\n' * 999, mtime=0)[:-12], ["a.jsonl.gz", "cannot be read"]),
        ("a.parquet", b"PAR1 no", ["a.parquet", "not readable Parquet"]),
        ("a.csv", b"question,answer\nx\n", ["a.csv", "row 1", "2 columns"]),
        ("a.csv", b"question,answer\nx,y,z\n", ["a.csv", "row 1", "2 columns"]),
        ("a.csv", b"question,answer\n" + b"x" * 200_000 + b",y\n", ["a.csv", "row 1", "not CSV", "field"]),
        (
            "a.jsonl",
            b'{"question": "x", "answer": ' + b"1" * 5000 + b"}\n",
            ["a.jsonl", "line 1", "cannot be read as JSON"],
        ),
        ("a.jsonl", b'{"question": ' + b"[" * 200_000 + b"\n", ["a.jsonl", "line 1", "cannot be read as JSON"]),
        ("a.txt", b"x", ["'k'", "a.txt", ".jsonl, .jsonl.gz, .parquet, .csv"]),
    ],
)
def test_bad_files_are_one_line_that_says_where(tmp_path, name, content, words) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_file(tmp_path / name, key="k").check(COLUMNS)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_names_its_key(tmp_path) -> None:
    with pytest.raises(DataError, match=r"'task_settings.x.train': data file '.*none.jsonl' does not exist"):
        load_rows(str(tmp_path / "none.jsonl"), None, revision=None, key="task_settings.x.train")


def test_without_a_file_and_a_published_set_the_key_is_named() -> None:
    with pytest.raises(DataError, match="'k' is null"):
        load_rows(None, None, revision=None, key="k")


def test_an_unpinned_set_asks_for_a_revision() -> None:
    with pytest.raises(DataError, match=r"owner/name has no pinned revision.*'revision'.*'k'"):
        load_rows(None, HubSource("owner/name", "train"), revision=None, key="k")


def test_offline_the_error_says_which_file_would_do(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    source = HubSource("owner/name", "train", "main", "0" * 40)
    with pytest.raises(DataError) as caught:
        load_rows(None, source, revision=None, key="task_settings.x.train")
    message = str(caught.value)
    assert "\n" not in message
    for word in ("owner/name (main)", "'train'", "0" * 40, "'task_settings.x.train'", ".jsonl"):
        assert word in message
