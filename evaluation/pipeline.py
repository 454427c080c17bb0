"""Evaluates policies and baselines on held-out problems: shards over rollout actors, and goes on where any kill left it.

    python -m evaluation.pipeline [RUN|FILE.safetensors ...] [key.path=value ...] [--checkpoints first|last|best|all|N,...]
        [--tasks NAME,...|all] [--seeds 42,43,44] [--policy-temperatures T,...] [--distribution NAME]
        [--baselines PRESET|FILE.yaml|none] [--num-examples N] [--quick] [--save-path DIR|s3://...] [--submit]

The same command again decodes only what is missing. Exit codes: 0 finished, 2 a mistake in the command or its files, 75 interrupted
(give the same command again), 1 any other failure, such as a failed shard.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config import to_dict
from cluster.errors import DeadlineExceeded, ExitCode, RunFailure, UserError
from cluster.logs import console, get_logger, setup_logging
from evaluation.preparation import NO_BASELINES, Preparation, prepare, presets, with_options
from evaluation.sources import fetch, read_config, read_policies
from evaluation.submission import submit
from rollout_workers.models.base import ModelError

if TYPE_CHECKING:
    from evaluation.results_dir import ResultsDir
    from evaluation.runner import Conditions, Outcome, Work

logger = get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(make_parser("evaluation.pipeline", __doc__), given)


def run_command(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """What `main` does, for a parser with the options of `make_parser`."""
    options = parser.parse_intermixed_args(arguments)
    setup_logging()
    try:
        prepared = prepare_options(options)
        if options.dry_run:
            _describe(prepared, options.save_path)
        elif options.submit:
            return submit(options, prepared)
        else:
            _run(prepared, options.save_path)
    except (UserError, ModelError) as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    except (DeadlineExceeded, RunFailure) as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.CRASH
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was decoded is kept; the same command goes on\n")
        return ExitCode.RESUMABLE
    return ExitCode.FINISHED


def make_parser(module: str, description: str | None, *, baselines: str | None = None) -> argparse.ArgumentParser:
    """The options of every evaluation command; `baselines` is the default of that option."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", metavar="RUN|FILE|key=value", help="runs, policy files, and overrides")
    parser.add_argument(
        "--checkpoints", help="of runs: first, last, best, all or updates; without it the run's product"
    )
    parser.add_argument("--tasks", help="names, or all: gsm8k,math,humaneval,mbpp; without it the run's")
    parser.add_argument("--seeds", type=_list_of(int), help="noise seeds of what draws")
    parser.add_argument("--policy-temperatures", type=_list_of(float), help="without it each policy's own")
    parser.add_argument("--distribution", help="that the policies' probabilities are drawn by; without it their own")
    parser.add_argument(
        "--baselines", default=baselines, help=f"{', '.join([*presets(), NO_BASELINES])} or a .yaml file"
    )
    parser.add_argument("--num-examples", type=int, help="held-out problems of each task")
    parser.add_argument("--quick", action="store_true", help="few problems, one seed, the ends of every range")
    parser.add_argument("--save-path", help="results directory, local or s3://; default: RUN/pipeline")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be decoded, and stop")
    parser.add_argument("--submit", action="store_true", help="run as a Ray job; the same command is the same job")
    parser.add_argument("--address", help="of the Jobs API (http://HOST:8265) for --submit")
    parser.add_argument(
        "--working-dir", help="checkout to upload with the job; without it the package is installed there"
    )
    parser.add_argument("--wait", action="store_true", help="with --submit: follow the job and exit as it does")
    return parser


def prepare_options(options: argparse.Namespace) -> Preparation:
    """The checked evaluation of a command line; sets `options.save_path` where it was left out."""
    _check_effect(options)
    uris = [source for source in options.sources if "=" not in source]
    overrides = [source for source in options.sources if "=" in source]
    with tempfile.TemporaryDirectory() as scratch:
        sources = fetch(uris, overrides, Path(scratch))
        config = read_config(sources, overrides)
        policies = read_policies(sources, options.checkpoints, distribution=options.distribution)
        run = sources[0].home if len(sources) == 1 else None
        if options.checkpoints is not None and not any(source.is_run for source in sources):
            raise UserError(
                f"--checkpoints is {options.checkpoints!r}, and no run is given; allowed: with a run's directory"
            )
    config = with_options(
        config,
        tasks=options.tasks,
        baselines=options.baselines,
        seeds=options.seeds,
        temperatures=options.policy_temperatures,
        num_examples=options.num_examples,
        quick=options.quick,
    )
    options.save_path = options.save_path or ("runs/pipeline" if run is None else f"{run.rstrip('/')}/pipeline")
    return prepare(config, policies, own_canvases=options.tasks is not None, quick=options.quick)


def _check_effect(options: argparse.Namespace) -> None:
    """Refuses options that would change nothing."""
    for name in ("wait", "address", "working_dir"):
        if getattr(options, name) and not options.submit:
            raise UserError(f"--{name.replace('_', '-')} is given without --submit; allowed: with --submit")
    if all("=" in source for source in options.sources):
        for name in ("policy_temperatures", "distribution"):
            if getattr(options, name) is not None:
                raise UserError(
                    f"--{name.replace('_', '-')} is given without a policy; allowed: with RUN or FILE.safetensors"
                )


def _list_of(kind: type[Any]) -> Callable[[str], tuple[Any, ...]]:
    def parse(text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(word) for word in text.split(","))
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"{text!r}; allowed: {kind.__name__} values with commas between"
            ) from error

    return parse


def _describe(prepared: Preparation, save_path: str) -> None:
    for suite in prepared.suites:
        console().print(
            f"{suite.picks[0].task}: {len(suite.picks)} problems, canvas {suite.canvas_length}", style="bold"
        )
        for arm in suite.arms:
            console().print(f"  {arm.label}, block {arm.block_length}", highlight=False)
    console().print(f"results would go to {save_path}", soft_wrap=True)


def _run(prepared: Preparation, save_path: str) -> None:
    from evaluation.conditions import conditions_of
    from evaluation.outputs import Context, actors_before, write_outputs
    from evaluation.records import sort_records
    from evaluation.report import write_report
    from evaluation.results_dir import ResultsDir
    from evaluation.runner import Outcome, Work

    config, policies = prepared.config, prepared.policies
    results = ResultsDir(save_path, config.storage)
    results.claim(prepared.settings)
    conditions = conditions_of(
        config.model_configs, config.task_configs, config.decode, config.reward, config.evaluation,
        versions={policy.name: policy.version for policy in policies}, run_seed=config.seed,
    )  # fmt: skip
    work = Work.left(prepared.suites, config.evaluation, conditions, results)
    if work.shards:
        outcome, devices = _decode(prepared, work, conditions, results)
    else:
        outcome, devices = Outcome(sort_records(work.records), []), actors_before(results)
    context = Context(
        alpha=config.reward.alpha,
        settings=prepared.settings,
        evaluation=to_dict(config.evaluation),
        policies={policy.name: policy.where for policy in policies},
        actors=devices,
    )
    write_outputs(results, outcome.records, context)
    if outcome.records:
        write_report([results.uri], f"{results.uri}/report.html", storage=config.storage)
    console().print(f"results  {results.uri}/ (report.html, summary.csv, detailed.csv, records.jsonl)", soft_wrap=True)
    outcome.raise_failures()


def _decode(
    prepared: Preparation, work: Work, conditions: Conditions, results: ResultsDir
) -> tuple[Outcome, list[dict[str, Any]]]:
    """What is left, decoded by actors that end with it; also where they ran."""
    from cluster.runtime import start_ray, stop_ray
    from evaluation.actors import STORE_DEADLINE_S, EvaluationActors, local_cpus
    from evaluation.environment import environment_record
    from evaluation.progress import EvaluationProgress
    from evaluation.runner import decode

    config, policies = prepared.config, prepared.policies
    started_here = start_ray(address=config.ray_address, num_cpus=local_cpus(config))
    actors = None
    try:
        actors = EvaluationActors(config, policies, canvas_length=max(prepared.canvas_lengths.values()))
        with EvaluationProgress() as progress:
            outcome = decode(actors.pool, work, conditions, results, on_progress=progress)
        return outcome, actors.pool.ask_each(
            environment_record, deadline_s=STORE_DEADLINE_S, what="the actors' devices"
        )
    finally:
        if actors is not None:
            actors.close()
        if started_here:
            stop_ray()


if __name__ == "__main__":
    sys.exit(main())
