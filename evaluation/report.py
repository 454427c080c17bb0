"""One self-contained HTML page about one or several evaluations: `python -m evaluation.report RUN [RUN ...] --out report.html`.

The page needs no network. All data is one JSON block in it, in which `<` is escaped, and scripts put text in place as text only:
what a model wrote can neither end the block nor become markup.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.errors import ExitCode, UserError
from cluster.logs import console
from cluster.run_dir import METRICS
from cluster.storage import StorageConfig, open_storage
from evaluation.report_data import ReportRun, report_data
from evaluation.results_dir import ResultsDir

_TEMPLATE = Path(__file__).parent / "template"
_SCRIPTS = ("base", "chart", "pareto", "replay", "samplers", "table", "curves", "main")


def render(data: dict[str, Any]) -> bytes:
    """The page that shows `data` (`report_data`)."""
    page = (_TEMPLATE / "report.html").read_text(encoding="utf-8")
    scripts = "\n".join((_TEMPLATE / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    style = (_TEMPLATE / "report.css").read_text(encoding="utf-8")
    block = json.dumps(data, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
    # Data last: nothing is put in place of what it holds.
    return page.replace("/*STYLE*/", style).replace("/*SCRIPTS*/", scripts).replace("/*DATA*/", block).encode()


def read_run(source: str, storage: StorageConfig | None = None, *, name: str | None = None) -> ReportRun:
    """The evaluation in a run's directory or in a results directory; UserError where there is none."""
    is_run = ResultsDir(f"{source}/evaluation", storage).settings() is not None
    results = ResultsDir(f"{source}/evaluation" if is_run else source, storage)
    settings = results.settings()
    records = results.records() if settings is not None else []
    if settings is None or not records:
        raise UserError(f"'{source}' holds no evaluation with records; allowed: directories of runs and of evaluations")
    # An evaluation that lies in a run's directory is of this run.
    run = source if is_run else source.rstrip("/").rpartition("/")[0]
    lines = _metrics(run, storage).decode().splitlines() if run else []
    manifest = results.read_json("manifest.json") if results.exists("manifest.json") else {}
    return ReportRun(
        name or _last(source), settings, records, results.traces(), [json.loads(line) for line in lines], manifest
    )


def _metrics(run: str, config: StorageConfig | None) -> bytes:
    storage = open_storage(run, config)
    return storage.read(METRICS) if storage.exists(METRICS) else b""


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def write_report(
    sources: Sequence[str],
    out: str,
    *,
    names: Sequence[str] | None = None,
    storage: StorageConfig | None = None,
) -> None:
    """Reads the evaluations at `sources` and writes the page to the file `out`; `names` are what it calls them."""
    names = names or [_last(source) for source in sources]
    if len(set(names)) < len(names):
        names = sources
    runs = [read_run(source, storage, name=name) for source, name in zip(sources, names, strict=True)]
    folder, _, file = out.rpartition("/")
    open_storage(folder or ".", storage).write(file, render(report_data(runs)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.report", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directories of runs or of evaluations, local or s3://")
    parser.add_argument("--out", default="report.html", help="the file to write")
    options = parser.parse_args(arguments)
    try:
        write_report(options.runs, options.out)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    console().print(f"report   {options.out}", soft_wrap=True)
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
