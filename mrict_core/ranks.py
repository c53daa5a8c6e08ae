"""Ranks: the processes that train one network together, and what they exchange. Alone, every function is trivial.

All ranks call the exchanging functions in the same order; `training.distributed` starts and joins the ranks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mrict_core.errors import MrictError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is; `here`: on this machine."""

    rank: int = 0
    count: int = 1
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this process decides, prints and writes."""
        return self.rank == 0

    def own(self, total: int) -> slice:
        """Return this rank's part of `total` rows in equal parts; a remainder at the end is nobody's."""
        part = total // self.count
        return slice(self.rank * part, (self.rank + 1) * part)


ALONE = Ranks()
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of torchrun
_current = ALONE


def among_others() -> bool:
    """Return whether torchrun, or `training.processes.launch`, started this process as one of several."""
    return all(os.environ.get(name) for name in VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1


def current() -> Ranks:
    """Return the place of this process."""
    return _current


@contextlib.contextmanager
def among(ranks: Ranks) -> Iterator[Ranks]:
    """Exchange with the other ranks inside the context; torch's process group must exist."""
    global _current
    before, _current = _current, ranks
    try:
        yield ranks
    finally:
        _current = before


def of_first(make: Callable[[], T]) -> T:
    """Return what `make` returns on the first rank, on all of them; a MrictError there is raised on all."""
    if _current.count == 1:
        return make()
    from torch import distributed

    said: list[Any] = [None, None]
    if _current.first:
        try:
            said[0] = make()
        except MrictError as error:
            said[1] = error
    distributed.broadcast_object_list(said)
    if said[1] is not None:
        raise said[1]
    return said[0]


def gathered(value: T) -> list[T]:
    """Return every rank's `value`, in the order of the ranks."""
    if _current.count == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * _current.count
    distributed.all_gather_object(values, value)
    return values


def average(value: Tensor) -> Tensor:
    """Return the mean of a tensor without gradient over the ranks."""
    if _current.count == 1:
        return value
    from torch import distributed

    total = value.clone()
    distributed.all_reduce(total)
    return total / _current.count


def averages(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the means over the ranks of named scalars, in one exchange."""
    if _current.count == 1 or not values:
        return dict(values)
    import torch

    means = average(torch.stack([value.double() for value in values.values()]))
    return {name: mean.to(value.dtype) for (name, value), mean in zip(values.items(), means, strict=True)}


def spread(tensors: Iterable[Any]) -> None:
    """Overwrite tensors by those of the first rank."""
    if _current.count == 1:
        return
    import torch
    from torch import distributed

    for tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            distributed.broadcast(tensor, 0)


def plain(network: T) -> T:
    """Return a network itself, without the wrapper that averages its gradients over the ranks."""
    return getattr(network, "plain", network)
