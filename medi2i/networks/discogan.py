"""The two networks of DiscoGAN (Kim et al. 2017, arXiv:1703.05192).

No skips, and no convolution has a bias. Images lie in [0, 1].
"""

from __future__ import annotations

from torch import Tensor, nn

from medi2i.errors import UsageError
from medi2i.networks.layers import Norm, check_dims, conv, conv_transpose, norm

__all__ = ["DiscoGANDiscriminator", "DiscoGANGenerator"]


class DiscoGANGenerator(nn.Module):
    """Halves `depth` times and doubles as often.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        depth: halvings.
        features: channels of the first stage; doubled up to 8 times that.
        kind: normalisation; none behind the first and the last convolution.
        code: channels of the authors' `extra_layers` (100), a convolution over 4 voxels each way
            that leaves one of the four at the paper's 64; 0, as by default, has none.

    Every spatial size must be a multiple of :attr:`multiple`, and be :attr:`least` of them long.
    """

    def __init__(
        self,
        *,
        dims: int,
        inputs: int,
        outputs: int,
        depth: int = 4,
        features: int = 64,
        kind: Norm = "batch",
        code: int = 0,
    ) -> None:
        super().__init__()
        check_dims(dims)
        if depth < 1:
            raise UsageError(f"depth is {depth}; at least 1 halving was expected")
        self.multiple = 2**depth
        self.least = 4 if code else 2  # a norm averages over two voxels at the least
        widths = [features * min(2**level, 8) for level in range(depth)]
        parts = _halvings(dims, inputs, widths, kind)
        if code:
            alone: Norm = "none" if kind == "instance" else kind  # one voxel has no variance
            parts += [
                conv(dims, widths[-1], code, 4, bias=False),
                norm(alone, dims, code),
                nn.LeakyReLU(0.2),
                conv_transpose(dims, code, widths[-1], 4, stride=1, bias=False),
                norm(kind, dims, widths[-1]),
                nn.ReLU(),
            ]
        for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True):
            parts += [
                conv_transpose(dims, wide, narrow, 4, stride=2, padding=1, bias=False),
                norm(kind, dims, narrow),
                nn.ReLU(),
            ]
        parts.append(conv_transpose(dims, features, outputs, 4, stride=2, padding=1, bias=False))
        self.main = nn.Sequential(*parts, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *spatial) in (0, 1)."""
        image: Tensor = self.main(x)
        return image


class DiscoGANDiscriminator(nn.Module):
    """Logits, and what its layers saw on the way.

    Args:
        dims: 2 or 3.
        inputs: channels.
        depth: halvings; 4 judge windows of 64 as a whole, larger ones in parts.
        features, kind: as in :class:`DiscoGANGenerator`.
    """

    def __init__(
        self, *, dims: int, inputs: int, depth: int = 4, features: int = 64, kind: Norm = "batch"
    ) -> None:
        super().__init__()
        check_dims(dims)
        if depth < 2:
            raise UsageError(f"depth is {depth}; at least 2 halvings were expected")
        widths = [features * min(2**level, 8) for level in range(depth)]
        self.least = 4 * 2**depth
        self.main = nn.Sequential(*_halvings(dims, inputs, widths, kind))
        self.head = conv(dims, widths[-1], 1, 4, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge.

        Args:
            x: (B, inputs, *spatial) in [0, 1].

        Returns:
            Logits (B, 1, *patches), high for real, and the activated maps of all stages but the
            first, (B, features * 2**n, *spatial / 2**(n + 1)) for n = 1, 2, ...

        Raises:
            UsageError: images too small to be judged.
        """
        if any(size < self.least for size in x.shape[2:]):
            raise UsageError(
                f"images of {tuple(x.shape[2:])} voxels came to a discriminator that needs "
                f"{self.least} along each side; use larger windows or a smaller `depth`"
            )
        seen = []
        for part in self.main:
            x = part(x)
            if isinstance(part, nn.LeakyReLU):
                seen.append(x)
        return self.head(x), seen[1:]


def _halvings(dims: int, inputs: int, widths: list[int], kind: Norm) -> list[nn.Module]:
    """A convolution, a norm (not behind the first) and an activation for each width."""
    parts: list[nn.Module] = []
    for level, (inside, wide) in enumerate(zip([inputs, *widths], widths, strict=False)):
        parts.append(conv(dims, inside, wide, 4, stride=2, padding=1, bias=False))
        if level:
            parts.append(norm(kind, dims, wide))
        parts.append(nn.LeakyReLU(0.2))
    return parts
