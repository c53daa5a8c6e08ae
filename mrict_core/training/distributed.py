"""Ranks in a training: gradients averaged by torch's DistributedDataParallel, one a network; see docs/cluster.md."""

from __future__ import annotations

import functools
import gc
import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from mrict_core import ranks
from mrict_core.data.batches import batches_of_pass
from mrict_core.errors import MrictError
from mrict_core.machine import cpu_count
from mrict_core.methods import METHODS, Method
from mrict_core.ranks import plain
from mrict_core.training.checkpoint import rng_state
from mrict_core.training.runs import Report

if TYPE_CHECKING:
    from mrict_core.experiments import Experiment
    from mrict_core.experiments.profiles import Profile
    from mrict_core.training.run import Run

STRIDE = 1_000_003  # between the seeds of two ranks
ALIKE = 1e-9  # sums of weights, relatively: GPUs of two kinds add in another order


class Calls(nn.Module):
    """A network whose other methods can be called through `forward`, where DistributedDataParallel sees them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Any, through: str = "", **named: Any) -> Any:
        return (getattr(self.network, through) if through else self.network)(*inputs, **named)


class Joint(DistributedDataParallel):
    """A network that averages its gradients over the ranks in each backward pass; its state is the plain network's.

    Buffers are not broadcast: two forward passes before a backward pass, as of a discriminator, would break.
    """

    def __init__(self, network: nn.Module) -> None:
        with warnings.catch_warnings():  # torch 2.14 announces another name, which 2.11 does not know
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            super().__init__(Calls(network), broadcast_buffers=False)

    @property
    def plain(self) -> nn.Module:
        return self.module.network

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "module" not in self.__dict__.get("_modules", ()):
                raise
        value = getattr(self.plain, name)
        return functools.partial(self, through=name) if inspect.ismethod(value) else value

    def state_dict(self, *given: Any, **named: Any) -> dict[str, Any]:
        return self.plain.state_dict(*given, **named)

    def load_state_dict(self, state: Mapping[str, Any], *given: Any, **named: Any) -> Any:
        return self.plain.load_state_dict(state, *given, **named)


def together(method: Method) -> None:
    """Let the attributes of a method that are trained networks average their gradients; `networks` stay plain.

    Called before every round: the order in which sums are taken follows the first step, and so it is the same in a
    training that was resumed.
    """
    if ranks.current().count == 1:
        return
    joint = {id(network): Joint(network) for network in _trained(method)}
    for name, value in list(vars(method).items()):
        if id(plain(value)) in joint:
            setattr(method, name, joint[id(plain(value))])
    gc.collect()  # the wrappers of the last round are in cycles, and their hooks would stay


def _trained(method: Method) -> list[nn.Module]:
    """Return the networks that an optimiser changes, each once."""
    every = (plain(network) for role in method.optimizers for network in method.trained(role))
    return list({id(network): network for network in every}.values())


def rank_states(method: Method) -> dict[str, Any]:
    """Return what a bit-exact resume needs of each rank, as part of the random states in a checkpoint; {} of one."""
    if ranks.current().count == 1:
        return {}
    state = method.state() if method.per_rank else {}
    own = {name: [tensor.cpu() for tensor in state[name]] for name in method.per_rank}
    return {"ranks": ranks.gathered(rng_state({}) | {"method": own})}


def own_states(saved: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return this rank's random states and the method's state of a checkpoint.

    With another number of ranks than before, the first goes on as the first, and the others draw from new seeds.
    """
    rng, state, place = saved["rng"], saved["method_state"], ranks.current()
    every = rng.get("ranks", [])
    if place.count > 1 and len(every) == place.count:
        own = every[place.rank]
        return rng | own, state | own["method"]
    return (rng if place.first else rng | apart(seed + saved["epoch"])), state


def apart(seed: int) -> dict[str, Any]:
    """Seed what the networks draw, such as dropout, apart from the other ranks; return the random states.

    The first rank draws as one process does.
    """
    if not ranks.current().first:
        torch.manual_seed(seed + STRIDE * ranks.current().rank)
    return rng_state({})


@torch.no_grad()
def settle(method: Method) -> None:
    """Average the statistics of batch norms over the ranks, before networks are validated and saved.

    Raises MrictError if the ranks' weights differ: a method that bypasses its attributes trains each rank apart.
    """
    if ranks.current().count == 1:
        return
    networks = {id(network): network for network in (*method.networks.values(), *_trained(method))}
    for network in networks.values():
        for layer in network.modules():
            if isinstance(layer, _NormBase) and layer.running_mean is not None:
                for statistic in (layer.running_mean, layer.running_var):
                    statistic.copy_(ranks.average(statistic))
    sums = [sum(float(p.double().abs().sum()) for p in network.parameters()) for network in networks.values()]
    first, *others = ranks.gathered(sums)
    if any(abs(a - b) > ALIKE * abs(a) for other in others for a, b in zip(first, other, strict=True)):
        raise MrictError(
            f"method {type(method).__name__}: its weights differ between the processes; expected equal ones; "
            "call trained networks by its attributes (self.G), not by self.networks, or train with --gpus 1"
        )


def check_shared(variant: Experiment, profile: Profile, count: int) -> None:
    """Raise MrictError unless `count` processes can train a variant, with an equal part of a batch each."""
    name, batch = variant.name, profile.batch(variant)
    if not METHODS[variant.method.name].shares:
        raise MrictError(
            f"{name}: method {variant.method.name} is trained by one process, these are {count}; leave --gpus out"
        )
    if batch % count:
        fitting = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
        raise MrictError(
            f"{name}: a batch of {batch} cannot be divided equally among {count} processes; expected --gpus "
            f"{fitting}; change --gpus, or the batch (--set data.batch_size=N, where the profile leaves it)"
        )


def check_ranks(run: Run, report: Report) -> None:
    """Raise MrictError unless method, batches and validation patients suit the ranks; report how they are shared."""
    count, name = ranks.current().count, run.variant.name
    if count == 1:
        return
    batch, slices, patients = run.profile.batch(run.variant), len(run.dataset), len(run.validation_sets())
    check_shared(run.variant, run.profile, count)
    if not batches_of_pass(slices, batch, ranks.current()):
        raise MrictError(
            f"{name}: {slices} training slices are too few for {count} processes with batches of {batch}; "
            "expected at least two a process; use fewer --gpus, or add patients"
        )
    if patients < count:
        raise MrictError(
            f"{name}: {count} processes for {patients} patients of the validation set; expected at least one each, for "
            f"a patient is validated by one process; use at most {patients}, or move patients to validation"
        )
    left = 0 if run.steps or run.settings.minutes else slices - batch * (slices // batch)
    whole = f"; {left} of {slices} slices stay over in an epoch, divided or left out" if left else ""
    report(f"{name}: {count} processes, each with {batch // count} of a batch's {batch} slices{whole}")


def threads(wanted: int | None) -> int | None:
    """Return this rank's part of the wanted threads, or of the machine's cores."""
    here = ranks.current().here
    return wanted if here == 1 else max(1, (wanted or cpu_count()) // here)
