"""A second device made of the first one's memory: it computes as the CPU does, and tells of every wait for it.

Tensors on it say that they are on `DEVICE` and take no part in an operation with tensors of the host, as on a GPU; whatever reads a
value of theirs on the host is counted. Needs no GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
"""A name that torch knows without having such a device."""

_HOST = torch.device("cpu")
_READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal"}
"""Operations whose result, or its size, depends on values."""


class DeviceTensor(torch.Tensor):
    """A tensor of the second device; `held` lies in the host's memory."""

    held: torch.Tensor

    @staticmethod
    @torch.inference_mode(False)
    def __new__(cls, held: torch.Tensor) -> DeviceTensor:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[no-any-return, attr-defined]
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} on the second device outside of `second_device`")


class _Dispatch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        with self:
            # Operations made of others come as they are in inference mode, and as these others out of it.
            result = function.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        tensors: list[torch.Tensor] = []
        _each_tensor((args, tuple(kwargs.values())), tensors.append)
        on_device = [each for each in tensors if isinstance(each, DeviceTensor)]
        name = function._schema.name
        target = kwargs.get("device")
        if target is None and not on_device:
            return function(*args, **kwargs)
        is_result_there = bool(on_device) if target is None else torch.device(target) == DEVICE
        if target is not None:
            kwargs["device"] = _HOST
        if name == "aten::_conj":
            # Lazy conjugates are resolved above the dispatcher, where a wrapper does not show that it holds one.
            function = torch.ops.aten.conj_physical.default
        copies = name in {"aten::_to_copy", "aten::copy_"}
        if on_device and not copies:
            strangers = [each for each in tensors if not isinstance(each, DeviceTensor) and each.dim() > 0]
            assert not strangers, f"{name} of tensors on {DEVICE} and on the host"
        if on_device or is_result_there:
            self._count(name, tensors, is_result_there, is_waiting=not kwargs.get("non_blocking", False))
        result = function(
            *_each_tensor(args, _held), **{key: _each_tensor(each, _held) for key, each in kwargs.items()}
        )
        if function._schema.is_mutable:
            return args[0]
        return _each_tensor(result, DeviceTensor) if is_result_there else result

    def _count(self, name: str, tensors: list[torch.Tensor], is_result_there: bool, *, is_waiting: bool) -> None:
        if name in _READS:
            self.waits[name] += 1
        elif name in {"aten::index", "aten::index_put", "aten::index_put_"}:
            if any(each.dtype in (torch.bool, torch.uint8) for each in tensors[1:]):
                self.waits[f"{name} with a mask"] += 1
        elif name == "aten::_to_copy" and is_waiting:
            is_from_there = any(isinstance(each, DeviceTensor) for each in tensors)
            if is_from_there != is_result_there:
                self.waits[f"copy to the {'device' if is_result_there else 'host'}"] += 1


def _held(each: torch.Tensor) -> torch.Tensor:
    return each.held if isinstance(each, DeviceTensor) else each


def _each_tensor(values: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same lists and tuples, of what `change` makes of each tensor."""
    if isinstance(values, torch.Tensor):
        return change(values)
    if isinstance(values, (list, tuple)):
        return type(values)(_each_tensor(each, change) for each in values)
    return values


class _Calls(TorchFunctionMode):
    """What never comes to the dispatcher: making a tensor of values there, and a list of what is there."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.tensor and kwargs.get("device") == DEVICE:
            return function(*args, **kwargs | {"device": _HOST}).to(DEVICE)
        if function is torch.Tensor.tolist and isinstance(args[0], DeviceTensor):
            return args[0].cpu().tolist()
        return function(*args, **kwargs)


@contextmanager
def second_device() -> Iterator[Counter[str]]:
    """Within it `DEVICE` is one; what is waited for is counted, by operation."""
    mode = _Dispatch()
    with mode, _Calls():
        yield mode.waits
