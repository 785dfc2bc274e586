"""Images by domain: what methods see that know no source and target, but n kinds of images.

A domain is a contrast. On demand, position d of the task's list is domain d. A fixed task has two
domains, its source side (0) and its target side (1), and each pair is played both ways, because
such a method must know how to go back.

Neighbouring slices: a network looks at a slab and draws its centre slice, and only that slice is
judged, compared or encoded. Where a drawn slice has to go in again, it goes in as a slab of
itself, just as a slab at the end of a volume repeats its last slice: the neighbours of the true
slab would give away what the way back has to reconstruct.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.systems.base import Translator

__all__ = [
    "Crossing",
    "Sides",
    "asked_domain",
    "crossing",
    "domains_of",
    "one_domain",
    "sides",
    "slab",
    "two_sided",
    "weights_of",
]


@dataclass(frozen=True)
class Crossing:
    """Images on their way into another domain.

    Attributes:
        source: (B, C * k, *spatial): what goes in, of the domains `origin`.
        image: (B, C, *spatial): its centre slice.
        origin: (B,) long.
        asked: (B,) long: the domains to go to.
        real: (B, C, *spatial): real images of the domains asked for: of the same persons where the
            batch is paired.
        other: (B, C, *spatial): real images of the domains asked for, of others in the batch; of
            the same where the batch has no other.
        weight: (B, 1, *spatial), or None.
    """

    source: Tensor
    image: Tensor
    origin: Tensor
    asked: Tensor
    real: Tensor
    other: Tensor
    weight: Tensor | None


@dataclass(frozen=True)
class Sides:
    """A batch as methods see it that know two kinds of images, a and b, and both ways between them.

    Attributes:
        a, b: (B, C * k, *spatial): what goes into a network.
        image_a, image_b: (B, C, *spatial): the centre slices.
        weight_a, weight_b: (B, 1, *spatial), or None.
    """

    a: Tensor
    b: Tensor
    image_a: Tensor
    image_b: Tensor
    weight_a: Tensor | None
    weight_b: Tensor | None


def two_sided(system: Translator) -> None:
    """Check that a system of two domains was given two.

    Raises:
        UsageError: a task on demand, or another number of contrasts out than in.
    """
    name = type(system).__name__
    if system.conditions:
        raise UsageError(
            f"{name} knows two domains, each with networks of its own, and serves no contrast on "
            "demand: name one target, or take stargan or starganv2"
        )
    domains_of(system)


def one_domain(system: Translator) -> None:
    """Check that a system that gives images of one domain back was given one.

    Raises:
        UsageError: several domains, or another number of contrasts out than in.
    """
    if system.conditions > 1 or system.inputs != system.outputs:
        raise UsageError(
            f"{type(system).__name__} gives images of one domain back, so as many contrasts come "
            f"out as go in, and there is no choice; {system.inputs} in, {system.outputs} out and "
            f"{system.conditions} conditions were given"
        )


def sides(system: Translator, batch: Batch) -> Sides:
    """Both sides of a batch; a target that came without its neighbours is its own."""
    weight_a, weight_b = weights_of(batch)
    return Sides(
        a=batch.source,
        b=slab(batch.target, system.slices) if batch.target_slab is None else batch.target_slab,
        image_a=system.centre(batch.source),
        image_b=batch.target,
        weight_a=weight_a,
        weight_b=weight_b,
    )


def weights_of(batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Weights of the source and of the target; the same where both are one person."""
    if batch.weight is None:
        return None, None
    return batch.weight, batch.weight if batch.target_weight is None else batch.target_weight


def domains_of(system: Translator) -> int:
    """How many domains a system serves.

    Raises:
        UsageError: what goes in and what comes out differ in number, so that there is no way back.
    """
    if system.inputs != system.outputs:
        raise UsageError(
            f"{type(system).__name__} turns images of one domain into another and back, so as many "
            f"contrasts come out as go in; {system.inputs} and {system.outputs} were given: use a "
            "task with as many targets as sources, or one on demand"
        )
    return system.conditions or 2


def asked_domain(system: Translator, source: Tensor, target: Tensor | None) -> Tensor:
    """(B,) long: the domain that `translate` is to go to.

    Raises:
        UsageError: the system serves several and none was named.
    """
    if not system.conditions:
        return torch.ones(len(source), dtype=torch.long, device=source.device)
    if target is None:
        raise UsageError(
            f"this system serves {system.conditions} contrasts; say which with `target`"
        )
    return target.to(source.device)


def slab(image: Tensor, slices: int) -> Tensor:
    """(B, C, *spatial) -> (B, C * slices, *spatial): each slice as its own neighbours."""
    return image.repeat_interleave(slices, dim=1) if slices > 1 else image


def crossing(system: Translator, batch: Batch) -> Crossing:
    """What a batch teaches about going from domain to domain.

    Raises:
        UsageError: the batch does not say which domains its sources are of.
    """
    image = system.centre(batch.source)
    if system.conditions:
        return _on_demand(system, batch, image)
    count = len(image)
    back = slab(batch.target, system.slices) if batch.target_slab is None else batch.target_slab
    here, there = weights_of(batch)
    origin = torch.arange(2, device=image.device).repeat_interleave(count)
    return Crossing(
        source=torch.cat([batch.source, back]),
        image=torch.cat([image, batch.target]),
        origin=origin,
        asked=1 - origin,
        real=torch.cat([batch.target, image]),
        other=torch.cat([batch.target.roll(1, 0), image.roll(1, 0)]),
        weight=None if there is None or here is None else torch.cat([here, there]),
    )


def _on_demand(system: Translator, batch: Batch, image: Tensor) -> Crossing:
    origin, asked = batch.source_contrast, batch.target_contrast
    every, known = batch.every, batch.known
    if origin is not None and asked is not None and every is None and known is None:
        # unpaired: the target is somebody else's, and there is no other image of anybody
        return Crossing(
            batch.source, image, origin, asked, batch.target, batch.target, batch.weight
        )
    if origin is None or asked is None or every is None or known is None:
        raise UsageError(
            "an on-demand system learns from batches that name their contrasts and bring `every` "
            "one of them; this batch does not"
        )
    person = torch.arange(len(image), device=image.device)
    inside = (origin >= 0) & (origin < system.conditions)
    # the source is never among the known targets, unless the two lists count differently
    if not bool((inside & ~known[person, origin.clamp(0, system.conditions - 1)]).all()):
        raise UsageError(
            f"{type(system).__name__} has one list of domains: give the task the same contrasts "
            "as sources and as targets, in the same order"
        )
    there = known | torch.nn.functional.one_hot(origin, system.conditions).bool()
    other = batch.target
    for step in reversed(range(1, len(image))):  # the nearest neighbour has the last word
        neighbour = person.roll(-step)
        has = there[neighbour, asked].reshape(-1, *[1] * (image.dim() - 1))
        other = torch.where(has, every[neighbour, asked].unsqueeze(1), other)
    return Crossing(batch.source, image, origin, asked, batch.target, other, batch.weight)
