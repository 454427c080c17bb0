"""The folder that a model name stands for: the shipped one, a path, or a snapshot of a Hugging Face repository.

Of a repository only configs, tokenizer files and safetensors are fetched, and code only where the user asked for it. Nothing is
fetched where `HF_HUB_OFFLINE` is set; each request has huggingface_hub's own deadline.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from cluster.logs import get_logger
from rollout_workers.models.base import ModelError
from rollout_workers.models.checkpoint import one_line
from rollout_workers.models.options import LoadOptions
from rollout_workers.models.tiny import CHECKPOINT_DIR

logger = get_logger(__name__)

TINY = "tiny"
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
CODE_FILES = ("*.py",)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def model_folder(name: str, options: LoadOptions) -> Path:
    """Where the files of a model lie, downloaded if need be; `ModelError` where there is no such model."""
    is_folder = name == TINY or Path(name).is_dir()
    if is_folder and options.revision is not None:
        raise ModelError(f"model.revision is {options.revision!r}, but model '{name}' is a folder; allowed: null")
    if is_folder:
        return CHECKPOINT_DIR if name == TINY else Path(name)
    if not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"model folder '{name}' does not exist; allowed: '{TINY}', a folder in the Hugging Face format, or a hub id OWNER/NAME"
        )
    if options.remote_code and not _COMMIT.fullmatch(options.revision or ""):
        raise ModelError(
            f"model.revision of '{name}' is {options.revision!r}; "
            "allowed with model.remote_code: the 40 hexadecimal digits of a commit"
        )
    return _snapshot(name, options)


def _snapshot(name: str, options: LoadOptions) -> Path:
    where = f"model '{name}' at revision {options.revision or constants.DEFAULT_REVISION!r}"
    try:
        folder = Path(
            snapshot_download(
                name,
                revision=options.revision,
                allow_patterns=[*FILES, *(CODE_FILES if options.remote_code else ())],
                ignore_patterns=["*/*"],
                local_files_only=constants.HF_HUB_OFFLINE,
            )
        )
    except LocalEntryNotFoundError as error:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise ModelError(
            f"{where} is no folder here and not whole in the cache {constants.HF_HUB_CACHE}, and {reason}"
        ) from error
    except (OSError, ValueError) as error:
        # A repository or revision that does not exist, one that needs a login, a full disk.
        raise ModelError(f"{where} is no folder here and cannot be downloaded: {one_line(error)}") from error
    if not _COMMIT.fullmatch(options.revision or ""):
        logger.info("%s is commit %s; model.revision=%s pins it", where, folder.name, folder.name)
    return folder
