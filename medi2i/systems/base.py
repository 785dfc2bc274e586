"""What a translation system is. Read this first.

A system owns networks and knows the order in which they learn; it owns no optimiser, device,
precision, logging or checkpoint. Its `play` is a generator: it computes an objective and yields
it as a :class:`Turn`; whoever drives it (the trainer, or a test by hand) clears the gradients,
propagates the objective back to the parameters of that turn's player alone, steps, and asks for
the next turn. So the update order of any paper reads top to bottom in one method::

    def play(self, batch):
        fake = self.generator(batch.source)
        yield Turn("discriminator", contest=...)  # the discriminator has moved when we go on
        yield Turn("generator", deceive=..., l1=...)

Rules: everything that changes in training is a parameter or a buffer; a loss is named as it shall
appear in the log and weighted where it is written, so a turn's losses add up to its objective;
never yield inside ``torch.no_grad`` or :func:`frozen`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from medi2i.batch import Batch, Pairing
from medi2i.errors import UsageError
from medi2i.networks.layers import check_dims
from medi2i.networks.memory import Memory

__all__ = ["Paper", "Translator", "Turn", "frozen", "one_hot"]


class Paper(str):
    """Where a method was published: ``Paper("Zhu et al. 2017, arXiv:1703.10593")``."""

    __slots__ = ()


class Turn:
    """One player's move: whose parameters learn, and from which losses.

    >>> turn = Turn("generator", l1=torch.tensor(3.0), gan=torch.tensor(0.5))
    >>> turn.player, float(turn.objective)
    ('generator', 3.5)
    """

    __slots__ = ("losses", "player")

    def __init__(self, player: str, **losses: Tensor) -> None:
        if not losses:
            raise ValueError(f'the turn of "{player}" has no loss')
        self.player = player
        self.losses = losses

    @property
    def objective(self) -> Tensor:
        """Scalar: the sum of the losses."""
        return torch.stack(list(self.losses.values())).sum()


class Translator(nn.Module, ABC):
    """A published system that turns one contrast into another.

    Subclasses say in class attributes who plays (`players`: a name for each player and the
    attributes that hold its networks), how batches must be paired, and where it was published;
    their constructor's keyword arguments are the whole configuration and are saved with the
    weights.

    Args:
        dims: 2 for slices and slabs, 3 for patches.
        inputs: source contrasts, stacked as channels.
        slices: neighbouring slices per contrast that the network sees (odd; 1 when dims is 3).
        outputs: target contrasts, stacked as channels.
        conditions: target contrasts that one network can produce on demand; 0 for a fixed task.
    """

    paper: ClassVar[Paper]
    pairing: ClassVar[Pairing]
    players: ClassVar[Mapping[str, tuple[str, ...]]]
    one_to_many: bool = False
    """Whether :meth:`sample` draws several images of one scan."""

    uncertain: bool = False
    """Whether :meth:`with_spread` knows how far its image may be off."""
    code_size: int = 0
    """Numbers in the code of a sample; 0 where chance enters in another way, as by dropout."""
    motion: str = ""
    """By which method batches must bring `Batch.neighbour`; empty where nothing asks for it."""
    one_list: ClassVar[bool] = False
    """Whether sources and targets on demand are one list of domains, counted alike."""
    reconstructs: ClassVar[bool] = False
    """Whether it translates nothing, but learns one domain and gives any image back as it would
    be there."""
    rounds: Tensor
    """Rounds played so far, a buffer of one integer; fading weights are functions of it."""

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
    ) -> None:
        super().__init__()
        check_dims(dims)
        if slices % 2 != 1 or (dims == 3 and slices != 1):
            raise UsageError(
                f"slices is {slices} with dims {dims}; an odd number was expected in 2-D, 1 in 3-D"
            )
        self.dims = dims
        self.inputs = inputs
        self.slices = slices
        self.outputs = outputs
        self.conditions = conditions
        self.register_buffer("rounds", torch.zeros((), dtype=torch.long))

    @property
    def channels(self) -> int:
        """Input channels: contrasts times neighbouring slices."""
        return self.inputs * self.slices

    @abstractmethod
    def play(self, batch: Batch) -> Iterator[Turn]:
        """One training round in the paper's order of turns."""

    @abstractmethod
    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """Translate.

        Args:
            source: (B, inputs * slices, *spatial) in [-1, 1]; any spatial size.
            target: (B,) long, which contrast to produce; None where the task is fixed.

        Returns:
            (B, outputs, *spatial).
        """

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        """One of the images that fit the source; only where `one_to_many`.

        Args:
            source, target: as for :meth:`translate`, which gives the likeliest or mean image.
            code: (B, code_size) standard normal; all windows of one volume get the same code, so
                that they agree. Any other chance comes from torch's random state.

        Returns:
            (B, outputs, *spatial).

        Raises:
            UsageError: the system gives one image per scan.
        """
        del source, code, target
        raise UsageError(
            f"{type(self).__name__} gives one image per scan; samples need a one-to-many system"
        )

    def with_spread(self, source: Tensor, *, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The image and how far off it may be; only where `uncertain`.

        Args:
            source, target: as for :meth:`translate`.

        Returns:
            Image and expected absolute error, both (B, outputs, *spatial); the latter positive.

        Raises:
            UsageError: the system was not built to know.
        """
        del source, target
        raise UsageError(
            f"this {type(self).__name__} does not know how sure it is; build it with `spread`"
        )

    def lasting_state(self) -> dict[str, Tensor]:
        """What translating needs of the state: all but what :class:`Memory` modules hold."""
        passing = self._passing()
        return {n: t for n, t in self.state_dict().items() if not n.startswith(passing)}

    def load_lasting_state(self, state: Mapping[str, Tensor]) -> None:
        """Take a :meth:`lasting_state` back; memories stay as they are.

        Raises:
            RuntimeError: a key too many or too few, or another shape; torch's message names them.
        """
        own = {n: t for n, t in self.state_dict().items() if n.startswith(self._passing())}
        self.load_state_dict({**own, **state}, strict=True)

    def _passing(self) -> tuple[str, ...]:
        return tuple(f"{n}." for n, m in self.named_modules() if isinstance(m, Memory))

    def centre(self, source: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> (B, inputs, *spatial): the middle of each slab."""
        return source[:, self.slices // 2 :: self.slices]

    @property
    def way_back(self) -> Callable[[Tensor], Tensor] | None:
        """(B, outputs * slices, *spatial) -> (B, inputs, *spatial), from target to source; None.

        Only systems that learn both ways have one.
        """
        return None

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """The parameters that learn in the turns of `player`."""
        return [
            parameter
            for name in self.players[player]
            for parameter in self.get_submodule(name).parameters()
        ]


def one_hot(target: Tensor | None, conditions: int, like: Tensor) -> Tensor | None:
    """(B,) positions -> (B, conditions) in the type of `like`; None for a fixed task."""
    if not conditions:
        return None
    if target is None:
        raise UsageError(f"this system serves {conditions} contrasts; say which with `target`")
    return nn.functional.one_hot(target.to(like.device), conditions).to(like.dtype)


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Within the block, gradients pass through these networks but do not reach their parameters."""
    touched = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in touched:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in touched:
            parameter.requires_grad_(True)
