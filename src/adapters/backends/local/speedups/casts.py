"""Frozen weights in the type of autocast, made once. Autocast itself casts a frozen weight anew in every pass."""

from __future__ import annotations

import torch


class Casts:
    """Copies of frozen weights in another type, as long as these are unchanged."""

    def __init__(self) -> None:
        self.made: dict[int, tuple[torch.nn.Parameter, int, torch.nn.Parameter]] = {}

    def of(self, weight: torch.nn.Parameter, kind: torch.dtype) -> torch.nn.Parameter:
        """The weight in this type; itself where it has it."""
        if weight.dtype == kind:
            return weight
        known = self.made.get(id(weight))
        if known is None or known[0] is not weight or known[1] != weight._version or known[2].dtype != kind:
            with torch.inference_mode(False):  # a later pass may need it for gradients
                copy = torch.nn.Parameter(weight.detach().to(kind), requires_grad=False)
            known = self.made[id(weight)] = weight, weight._version, copy
        return known[2]
