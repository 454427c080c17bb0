"""A study's section of a Markdown file: written in its place, the other sections left as they are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import UserError
from cluster.storage import atomic_write
from evaluation.environment import environment_record
from learner.studies.catalogue import STUDIES, Study
from learner.studies.tables import Rows

_TITLE = "# Studies"
_HEADING = re.compile(r"^## (?=\S)", re.MULTILINE)


def section(study: Study, tables: Sequence[Rows], *, command: str, date: str, images: Sequence[str] = ()) -> str:
    """The study in Markdown: question, command, date, device, tables, and plots by their paths."""
    environment = environment_record()
    device = environment["device"] if environment["device"] != "cpu" else f"{environment['num_cpus']} CPU cores"
    lines = [f"## {study.name}", "", study.question, "", f"`{command}`, {date}, {device}, torch {environment['torch']}"]
    for table in tables:
        lines += [
            "",
            *([f"{table.title[0].upper()}{table.title[1:]}:", ""] if len(tables) > 1 else []),
            *table.markdown(),
        ]
    for image in images:
        lines += ["", f"![{study.name}: {Path(image).stem.rpartition('_')[2]}]({image})"]
    return "\n".join(lines) + "\n"


def write_docs(
    path: Path, study: Study, tables: Sequence[Rows], plots: Sequence[Path], *, command: str, date: str
) -> list[Path]:
    """Puts the study's section into `path`, its plots beside it under ``images/``; returns what was written."""
    if path.suffix != ".md":
        raise UserError(f"--write-docs is '{path}'; allowed: a Markdown file (.md)")
    names = [f"study_{study.name}_{plot.name}" for plot in plots]
    images = path.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    for plot, name in zip(plots, names, strict=True):
        shutil.copyfile(plot, images / name)
    text = section(study, tables, command=command, date=date, images=[f"images/{name}" for name in names])
    before = path.read_text() if path.exists() else f"{_TITLE}\n"
    atomic_write(path, replace_section(before, study.name, text).encode())
    return [path, *(images / name for name in names)]


def replace_section(document: str, name: str, text: str) -> str:
    """`document` with the section of study `name` replaced, or added where the order of the studies has it."""
    head, *parts = _HEADING.split(document)
    sections = {part.split("\n", 1)[0].strip(): f"## {part}".rstrip("\n") + "\n" for part in parts}
    sections[name] = text
    known = [study for study in STUDIES if study in sections]
    others = [each for each in sections if each not in STUDIES]
    return "\n".join([head.rstrip("\n") + "\n", *(sections[each] for each in (*known, *others))])
