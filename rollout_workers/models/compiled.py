"""Transformer blocks as compiled programs, for passes of any number of rows and any length.

All blocks of a model share one program, with symbolic sizes: it is compiled once with and once without padding, and once more of
each for a single row, which the compiler treats apart. A compiled model has all four before it is used, so nothing is compiled
while it decodes. The last block (`last_block`) is computed as it is; keys and values are not kept.

Shapes: `B` rows, `P` prompt tokens, `L` canvas tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.base import ModelError

_Kind = TypeVar("_Kind", bound=nn.Module)


def compiled(model: BackboneDLLM) -> BackboneDLLM:
    """The same weights behind compiled blocks; `model` stays as it is. ModelError where the compiler cannot.

    Predictions differ by rounding: the compiler fuses operations.
    """
    layers = list(model.model.model.layers)
    if len(layers) < 2:
        raise ModelError(
            f"model '{model.spec.name}' has {len(layers)} blocks; allowed: model.compile=false, for its last block is not compiled"
        )
    causal_lm, backbone = _twin(model.model), _twin(model.model.model)
    causal_lm.model = backbone
    backbone.layers = nn.ModuleList([*_compiled_blocks(layers[:-1]), layers[-1]])
    twin = BackboneDLLM(causal_lm, replace(model.spec, can_cache=False), is_shifted=model.is_shifted)
    _compile_all(twin)
    return twin


def _twin(module: _Kind) -> _Kind:
    """Another module over the same weights, whose submodules can be exchanged."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _with_own_code(function: Callable[..., Any]) -> FunctionType:
    """The same function with its own code object.

    Programs are kept, and their number is limited, by code object, so that models of one kind would share both.
    """
    assert isinstance(function, FunctionType), "a class's method is a function"
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    own.__kwdefaults__ = function.__kwdefaults__
    return own


def _compiled_blocks(layers: list[nn.Module]) -> list[nn.Module]:
    kind = type(layers[0])
    program = torch.compile(_with_own_code(kind.forward), dynamic=True, fullgraph=True)
    compiled_kind = type(f"Compiled{kind.__name__}", (_CompiledBlock, kind), {"program": staticmethod(program)})
    twins = [_twin(layer) for layer in layers]
    for twin in twins:
        twin.__class__ = compiled_kind
    return twins


class _CompiledBlock(nn.Module):
    """In front of a decoder layer's class."""

    program: Callable[..., Tensor]

    def forward(
        self,
        hidden_states: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor],
        is_causal: bool,
        past_key_values: None = None,
        **options: Any,
    ) -> Tensor:
        return self.program(
            self,
            hidden_states,
            attention_mask=attention_mask,
            position_embeddings=position_embeddings,
            is_causal=is_causal,
        )


def _compile_all(model: BackboneDLLM) -> None:
    spec = model.spec
    try:
        for num_rows in (2, 1):
            for num_padded in (0, 1):
                prompt_BP = torch.full((num_rows, 4), spec.pad_id, device=model.device)
                length_B = torch.full((num_rows,), 4 - num_padded, device=model.device)
                canvas_BL = torch.full((num_rows, 8), spec.mask_id, device=model.device)
                model.predict(prompt_BP, length_B, canvas_BL, canvas_BL == spec.mask_id)
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model '{spec.name}' cannot be compiled on {model.device} ({reason}); "
            f"allowed: model.compile=false, or a compiler that torch.compile finds (C++ on a CPU, Triton on a GPU)"
        ) from error
