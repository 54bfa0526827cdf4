"""Map functions over nested outputs of models: tuples, dictionaries and the like."""

import copy
import dataclasses
from collections.abc import Callable, MutableMapping
from typing import Any

import torch


def map_tensors(function: Callable[[torch.Tensor], Any], outputs: Any) -> Any:
    """Apply a function to every tensor of a model's outputs.

    Args:
        function (callable): tensor → tensor.
        outputs: a tensor; a tuple (also one with names), list, dictionary or dataclass of outputs;
            anything else is kept as it is.

    Returns:
        Outputs of the same types.

    >>> map_tensors(torch.neg, {'a': [torch.tensor(1), None]})
    {'a': [tensor(-1), None]}
    """
    if isinstance(outputs, torch.Tensor):
        return function(outputs)
    changed: Any
    if isinstance(outputs, MutableMapping):
        changed = copy.copy(outputs)
        for key, value in outputs.items():
            changed[key] = map_tensors(function, value)
        return changed
    if dataclasses.is_dataclass(outputs):
        changed = copy.copy(outputs)
        for field in dataclasses.fields(outputs):
            value = map_tensors(function, getattr(outputs, field.name))
            object.__setattr__(changed, field.name, value)  # of a frozen one, too
        return changed
    if isinstance(outputs, (tuple, list)):
        mapped = [map_tensors(function, value) for value in outputs]
        return outputs._make(mapped) if hasattr(outputs, '_make') else type(outputs)(mapped)
    return outputs
