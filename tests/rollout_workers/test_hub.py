"""Model names that are ids of the Hugging Face hub, against a cache laid out by hand and without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from rollout_workers.models import hub
from rollout_workers.models.base import ModelError
from rollout_workers.models.load import check_model, load_model, load_tokenizer
from rollout_workers.models.options import LoadOptions
from tests.fakes.checkpoints import write_llada
from tests.fakes.remote import write_toy

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
NAME = "GSAI-ML/LLaDA-8B-Instruct"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def store(cache: Path, name: str, write: Callable[[Path], Any], *, commit: str = COMMIT, branch: str = "main") -> Path:
    """Puts a model there as downloads do: files as links to blobs, a branch as a file with its commit."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    write(snapshot)
    blobs = repository / "blobs"
    blobs.mkdir(exist_ok=True)
    for path in list(snapshot.iterdir()):
        blob = blobs / f"{commit[:4]}-{path.name}"
        shutil.move(path, blob)
        path.symlink_to(blob)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / branch).write_text(commit)
    return snapshot


def test_a_cached_model_loads_by_its_id(cache: Path) -> None:
    store(cache, NAME, write_llada)
    model = load_model(NAME, dtype="float64")
    assert model.spec.name == NAME
    assert load_tokenizer(NAME).mask_id == model.spec.mask_id
    assert check_model(NAME, LoadOptions(revision=COMMIT)) == check_model(NAME, LoadOptions(revision="main"))


def test_each_revision_is_its_own_model(cache: Path) -> None:
    store(cache, NAME, write_llada)
    store(cache, NAME, lambda folder: write_llada(folder, max_sequence_length=99), commit=OTHER, branch="long")
    for revision, positions in ((None, 512), (COMMIT, 512), (OTHER, 99), ("long", 99)):
        assert check_model(NAME, LoadOptions(revision=revision)).num_positions == positions


def test_an_unpinned_model_says_how_to_pin_it(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    store(cache, NAME, write_llada)
    with caplog.at_level("INFO", hub.logger.name):
        check_model(NAME, LoadOptions(revision=COMMIT))
        assert not caplog.records
        check_model(NAME)
    assert [record.getMessage() for record in caplog.records] == [
        f"model '{NAME}' at revision 'main' is commit {COMMIT}; model.revision={COMMIT} pins it"
    ]


@pytest.mark.parametrize("revision", [None, "v2", OTHER])
def test_what_is_not_cached_is_one_line(cache: Path, revision: str | None) -> None:
    store(cache, NAME, write_llada)
    name = NAME if revision else "nobody/nothing"
    with pytest.raises(ModelError) as caught:
        load_model(name, options=LoadOptions(revision=revision))
    message = str(caught.value)
    assert "\n" not in message
    for part in (f"'{name}'", f"'{revision or 'main'}'", str(cache), "HF_HUB_OFFLINE is set"):
        assert part in message


def test_a_half_cached_model_names_what_is_missing(cache: Path) -> None:
    next(store(cache, NAME, write_llada).glob("*00002-of*")).unlink()
    with pytest.raises(ModelError, match=r"has no model-00002-of-00002\.safetensors"):
        load_model(NAME)


@pytest.mark.parametrize(
    ("error", "pattern"),
    [
        (LocalEntryNotFoundError("no\nconnection"), "the hub cannot be reached"),
        (OSError("no space left\non device"), "cannot be downloaded: no space left on device"),
        (ValueError("bad\nname"), "cannot be downloaded: bad name"),
    ],
)
def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, pattern: str) -> None:
    def fail(*name: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match=pattern) as caught:
        load_model(NAME)
    assert "\n" not in str(caught.value)
    assert NAME in str(caught.value)


@pytest.mark.parametrize("remote_code", [False, True])
def test_code_is_fetched_for_those_who_run_it_alone(monkeypatch: pytest.MonkeyPatch, remote_code: bool) -> None:
    asked: list[dict[str, Any]] = []

    def remember(name: str, **options: Any) -> str:
        asked.append(options)
        return "/nowhere"

    monkeypatch.setattr(hub, "snapshot_download", remember)
    hub.model_folder(NAME, LoadOptions(revision=COMMIT, remote_code=remote_code))
    assert ("*.py" in asked[0]["allow_patterns"]) == remote_code
    assert asked[0]["revision"] == COMMIT
    assert not any(pattern in asked[0]["allow_patterns"] for pattern in ("*", "*.bin", "*.pt"))


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:12], COMMIT.upper()])
def test_code_of_the_hub_runs_at_a_full_commit_only(cache: Path, revision: str | None) -> None:
    store(cache, "someone/toy", write_toy)
    assert check_model("someone/toy", LoadOptions(revision=COMMIT, remote_code=True)).mask_id == 2
    with pytest.raises(
        ModelError, match=rf"model.revision of 'someone/toy' is {revision!r}; allowed .* 40 hexadecimal"
    ):
        check_model("someone/toy", LoadOptions(revision=revision, remote_code=True))


@pytest.mark.parametrize("name", ["nowhere", "/nowhere/model", "./a/b", "a/b/c", "a b/c"])
def test_a_name_that_is_nothing_says_what_is_allowed(name: str) -> None:
    with pytest.raises(ModelError, match=r"does not exist; allowed: 'tiny', a folder .*, or a hub id OWNER/NAME"):
        check_model(name)
