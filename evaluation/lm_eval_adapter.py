"""Our samplers in the lm-evaluation-harness: its command line, with one more model (extra `lm-eval`).

    python -m evaluation.lm_eval_adapter --model dllm_unmasking --tasks gsm8k_cot \\
        --model_args model=GSAI-ML/LLaDA-8B-Instruct,sampler=threshold=0.9,canvas_length=256,block_length=32,device=cuda

`model_args` are arguments of `evaluation.decoder.Decoder`, `sampler=klass(tau=0.9,kl=0.01)` too; prompts are taken as the harness
makes them (`--apply_chat_template`).
Tasks that ask for likelihoods are refused: a sampler changes no likelihood, and the model has none that is exact.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string

from cluster.errors import ExitCode, UserError
from evaluation.decoder import Decoder

NAME = "dllm_unmasking"
_INTEGERS = ("canvas_length", "block_length", "seed", "num_slots", "cache_refresh")
_NUMBERS = ("policy_temperature", "token_temperature")
_TEXTS = ("model", "policy", "sampler", "eos", "cache", "dtype", "device")


@register_model(NAME)
class DllmUnmasking(LM):
    """A model and a sampler as the harness sees them.

    Args:
        batch_size: of the harness: rows per forward pass, unless `num_slots` is given.
        settings: of `Decoder`.
    """

    def __init__(self, *, batch_size: int | str | None = None, max_batch_size: object = None, **settings: Any) -> None:
        super().__init__()
        arguments = _arguments(settings)
        if "num_slots" not in arguments and str(batch_size).isdecimal():
            arguments["num_slots"] = int(str(batch_size))
        self._decoder = Decoder(**arguments, is_raw=True)
        self.num_passes: list[int] = []
        """NFE of every answer, in the order of requests."""

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> DllmUnmasking:
        """From `--model_args` and the harness's own options; where both name a device, the former counts.

        The harness says `cuda:0` on every machine, so one without CUDA computes on its CPU.
        """
        options = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if str(options.get("device", "")).startswith("cuda") and not torch.cuda.is_available():
            options["device"] = "cpu"
        return cls(**(options | _rejoined(arg_dict)))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> DllmUnmasking:
        """See `create_from_arg_obj`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def tokenizer_name(self) -> str:
        """What the harness names its caches by."""
        return self._decoder.model_name.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the model reads it."""
        return self._decoder.tokenizer.render_chat(chat_history, add_generation_prompt=add_generation_prompt)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers, each cut before the first of its stop texts; the canvas limits their length, not `max_gen_toks`."""
        answers = self._decoder([request.args[0] for request in requests])
        self.num_passes += [answer.nfe for answer in answers]
        texts = []
        for request, answer in zip(requests, answers, strict=True):
            text = _cut(answer.text, request.args[1].get("until", []))
            self.cache_hook.add_partial("generate_until", request.args, text)
            texts.append(text)
        return texts

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refused."""
        raise UserError(_no_likelihood(requests))

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refused."""
        raise UserError(_no_likelihood(requests))


def _no_likelihood(requests: Sequence[Instance]) -> str:
    task = requests[0].task_name if requests else ""
    return f"task {task!r} asks for likelihoods, which no sampler changes; allowed with {NAME}: tasks of generate_until"


def _cut(text: str, until: Sequence[str] | str) -> str:
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text


def _rejoined(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with commas in parentheses back in their place: the harness cuts `sampler=klass(tau=0.9,kl=0.01)` there."""
    joined: dict[str, Any] = {}
    open_key = None
    for key, value in arguments.items():
        if open_key is None:
            joined[key] = value
            open_key = key if _is_open(value) else None
        else:
            joined[open_key] += f",{key}={value}"
            open_key = open_key if _is_open(joined[open_key]) else None
    return joined


def _is_open(value: object) -> bool:
    return isinstance(value, str) and value.count("(") > value.count(")")


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with their types; the harness gives what it could not parse as text."""
    arguments: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in (*_INTEGERS, *_NUMBERS, *_TEXTS):
            raise UserError(
                f"--model_args has {key!r} (value {value!r}); allowed: {', '.join((*_TEXTS, *_INTEGERS, *_NUMBERS))}"
            )
        convert = int if key in _INTEGERS else float if key in _NUMBERS else str
        try:
            arguments[key] = convert(value)
        except ValueError as error:
            kind = "an integer" if key in _INTEGERS else "a number"
            raise UserError(f"--model_args has {key}={value!r}; allowed: {kind}") from error
    return arguments


def main() -> int:
    """Runs the harness's own command line; returns its exit code."""
    try:
        cli_evaluate()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
