"""Bayesian conditional GAN (Abbasnejad et al. 2017, arXiv:1706.05477).

An ordinary conditional GAN sends noise through one function; here the function itself is random:
its weights have a distribution, and each draw of them turns the same scan into another image. The
draws' mean is the translation, their spread says how sure it is.

No code of the authors is public and their networks are not for translation: what follows is built
in the spirit of the paper, on pix2pix (Isola et al. 2017, arXiv:1611.07004), and replicates no
table of it. The posterior over weights is variational: channel dropout (Gal & Ghahramani 2016,
arXiv:1506.02142), fixed or learned (concrete, arXiv:1705.07832), in the generator's deep encoder
and in all but its last two decoder stages, and in the discriminator. Generator and discriminator
see masks of their own in each turn. The paper's own sampling of the posterior by stochastic
gradients with noise is an optimiser, which systems here do not own, and is left out, as are
ensembles (train several, with other seeds). Instance norm replaces batch norm, whose statistics
dropout would shift between training and use.

Whole channels are dropped rather than voxels: that is a draw of weights, one function for every
window of a volume, so slices and patches of one sample agree wherever the random state is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from medi2i.batch import Batch
from medi2i.errors import UsageError
from medi2i.losses import absolute_error, contest, deceive
from medi2i.losses.adversarial import Game
from medi2i.losses.reconstruction import laplace
from medi2i.networks.bayesian import (
    Dropout,
    ImageAndSpread,
    one_function,
    random_layers,
    randomise_discriminator,
    randomise_generator,
)
from medi2i.systems.base import Paper, Turn, frozen
from medi2i.systems.pix2pix import Pix2pix

__all__ = ["BayesianCGAN", "Prediction", "calibration_of"]


class Prediction(NamedTuple):
    """What the draws of a Bayesian network say together; each (B, outputs, *spatial)."""

    mean: Tensor
    epistemic: Tensor
    """Variance between the draws: what more data could teach."""
    aleatoric: Tensor
    """Mean variance of the noise that each draw expects; zeros where it was not learned."""

    @property
    def variance(self) -> Tensor:
        """The whole of it."""
        return self.epistemic + self.aleatoric


class BayesianCGAN(Pix2pix):
    """pix2pix with random weights: samples, their mean and their variance.

    Args:
        depth, features, patch, conditional: of the networks, as for `Pix2pix`.
        probability: that a channel of the generator is dropped; where it starts if it is learned.
        probability_discriminator: likewise; fixed.
        dropout: "bernoulli" (fixed) or "concrete" (learned, one probability for each layer).
        examples: number of training examples N, by which the weights' divergence from their prior
            is divided. None leaves that term out, and the prior to the optimiser's `weight_decay`;
            concrete dropout needs it.
        length: length scale of that prior.
        aleatoric: weight of the Laplace likelihood of a second set of outputs that say how far the
            first may be off; it then takes the place of the absolute error. 0 for none.
        masks: draws of the discriminator's weights that a verdict is the mean of.
        passes: draws that a prediction is made from.
        game, l1, gan: as for `Pix2pix`.

    The rest: see :class:`Translator`.
    """

    paper = Paper("Abbasnejad et al. 2017, arXiv:1706.05477")
    one_to_many = True
    uncertain = True
    calibration: Tensor
    """What standard deviations are multiplied by; 1 until :func:`calibration_of` was asked."""

    def __init__(
        self,
        *,
        dims: int = 2,
        inputs: int = 1,
        slices: int = 1,
        outputs: int = 1,
        conditions: int = 0,
        depth: int | None = None,
        features: int = 64,
        patch: int = 3,
        conditional: bool = True,
        probability: float = 0.2,
        probability_discriminator: float = 0.2,
        dropout: Dropout = "bernoulli",
        examples: int | None = None,
        length: float = 0.1,
        aleatoric: float = 0.0,
        masks: int = 1,
        passes: int = 20,
        game: Game = "least-squares",
        l1: float = 100.0,
        gan: float = 1.0,
    ) -> None:
        super().__init__(
            dims=dims,
            inputs=inputs,
            slices=slices,
            outputs=outputs,
            conditions=conditions,
            depth=depth,
            features=features,
            patch=patch,
            conditional=conditional,
            norm="instance",
            dropout=0.0,
            game=game,
            l1=l1,
            gan=gan,
        )
        if dropout == "concrete" and examples is None:
            raise UsageError(
                "concrete dropout learns from the number of training `examples`; name it"
            )
        least = min(masks, passes, 1 if examples is None else examples)
        if least < 1:
            raise UsageError(f"masks, passes or examples is {least}; at least 1 was expected")
        self.one_to_many = True  # by its weights, not by pix2pix's dropout
        if aleatoric:
            last = self.generator.up[-1]
            self.generator.up[-1] = ImageAndSpread(dims, last, features, outputs)
        randomise_generator(self.generator, probability, dropout)
        randomise_discriminator(self.discriminator, probability_discriminator)
        self.register_buffer("calibration", torch.ones(()))
        self.examples, self.length = examples, length
        self.aleatoric = aleatoric
        self.masks, self.passes = masks, passes

    def play(self, batch: Batch) -> Iterator[Turn]:
        """The discriminator moves first; the generator then draws its weights anew."""
        source, real = self.dressed(batch.source, batch.target_contrast), batch.target
        with torch.no_grad():
            fake, _ = self.drawn(source)
        yield Turn(
            "discriminator",
            contest=contest(self.judged(source, real), self.judged(source, fake), self.game),
        )
        fake, log_spread = self.drawn(source)
        with frozen(self.discriminator):
            losses = {"gan": self.gan * deceive(self.judged(source, fake), self.game)}
        if log_spread is None:
            losses["l1"] = self.l1 * absolute_error(fake, real, batch.weight)
        else:
            likelihood = laplace(fake, real, log_spread, batch.weight)
            losses["likelihood"] = self.aleatoric * likelihood
        if self.examples is not None:
            losses["kl"] = self.divergence() / self.examples
        yield Turn("generator", **losses)

    def translate(self, source: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The image of the mean weights, which stands for the mean image; no chance is in it."""
        return self.drawn(self.dressed(source, target))[0]

    def sample(self, source: Tensor, code: Tensor, *, target: Tensor | None = None) -> Tensor:
        """The images of one draw of the weights, the same function for the whole batch.

        The code is empty; the draw comes from torch's random state and from nothing else, not the
        size of the batch or of the window.
        """
        del code
        with one_function(self.generator):
            return self.translate(source, target=target)

    def predict(
        self, source: Tensor, *, target: Tensor | None = None, passes: int | None = None
    ) -> Prediction:
        """Mean and variance over draws of the weights; the same draws in every call.

        Args:
            source, target: as for :meth:`translate`.
            passes: draws; None for the system's own number.
        """
        dressed, count = self.dressed(source, target), passes or self.passes
        mean = squares = aleatoric = torch.zeros((), device=source.device)
        # random numbers come from the CPU alone; the caller's random state stays as it is
        with torch.random.fork_rng(devices=[]), one_function(self.generator):
            for number in range(count):
                torch.default_generator.manual_seed(number)
                image, log_spread = self.drawn(dressed)
                change = image - mean
                mean = mean + change / (number + 1)
                squares = squares + change * (image - mean)
                noise = torch.zeros_like(image)
                if log_spread is not None:
                    noise = 2 * (2 * log_spread).exp()  # a Laplace distribution's variance
                aleatoric = aleatoric + noise / count
        return Prediction(mean, squares / count, aleatoric)

    def with_spread(self, source: Tensor, *, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean of the draws and expected absolute error (see :meth:`Translator.with_spread`).

        The error is that of a Laplace distribution with the calibrated variance of the prediction.
        """
        prediction = self.predict(source, target=target)
        spread = self.calibration * (prediction.variance / 2).sqrt()
        return prediction.mean, spread.clamp_min(1e-6)

    def drawn(self, dressed: Tensor) -> tuple[Tensor, Tensor | None]:
        """The generator's image under its present weights, and the logarithm of its spread."""
        both = self.generated(dressed)
        if not self.aleatoric:
            return both, None
        image, bounded = both.chunk(2, dim=1)
        return image, 3 * (bounded - 1)  # the generator ends in tanh: spreads of exp(-6) to 1

    def divergence(self) -> Tensor:
        """Scalar: how far the generator's weights are from their prior."""
        layers = random_layers(self.generator)
        return torch.stack([layer.divergence(self.length) for layer in layers]).sum()

    def judged(self, source: Tensor, candidate: Tensor) -> Tensor:
        """The discriminator's logits for a candidate, the mean over draws of its weights."""
        verdicts = [super(BayesianCGAN, self).judged(source, candidate) for _ in range(self.masks)]
        return torch.stack(verdicts).mean(0)


def calibration_of(
    prediction: Prediction, reference: Tensor, weight: Tensor | None = None
) -> Tensor:
    """What a prediction's standard deviations must be multiplied by to fit held-back scans.

    The scale s that is likeliest under N(mean, s^2 variance): the root of the mean squared error
    in units of the variance. The adversarial term makes draws sharp, not honest, so expect s > 1.
    Voxels outside the head belong out of it: give a weight.

    Args:
        prediction: of scans that were not trained on.
        reference: (B, outputs, *spatial), their true targets.
        weight: (B, 1 or outputs, *spatial) in [0, 1], or None for all voxels alike.

    Returns:
        Scalar; copy it into the system's `calibration` buffer.
    """
    error = (reference - prediction.mean).square() / prediction.variance.clamp_min(1e-12)
    weight = torch.ones_like(error) if weight is None else weight.expand(error.shape)
    return ((error * weight).sum() / weight.sum().clamp_min(1e-6)).sqrt()
