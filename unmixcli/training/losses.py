"""Losses: how far estimates are from references, per item and stem, and weighted sums of them.

Every function takes estimates and references of one shape [B, S, …] and gives [B, S], the mean over the rest, so that a
stem that nobody knows can be left out of one item. `Objective` transforms, weights and adds what a recipe asks for.

    loss          on                             source
    mse, l1       waveform, spectrum, magnitude, projection
    kl            magnitude                      generalised Kullback-Leibler divergence (Lee & Seung, NIPS 2000)
    is            magnitude (squared inside)     Itakura-Saito divergence (Févotte et al., Neural Computation 2009)
    si_sdr        waveform                       "SDR - half-baked or well done?" (Le Roux et al., 2019, 1811.02508)
    sdr           waveform                       the same with the scale counted
    mrstft        waveform                       "Parallel WaveGAN" (Yamamoto et al., 2020, 1910.11480), eq. 3-6

A projection is the part of a reference's spectrum in the direction of the mixture's ("Phase-sensitive and
recognition-boosted speech separation using deep recurrent neural networks", Erdogan et al., ICASSP 2015): all that a
real mask can reach, in half as many numbers.

`discriminative` adds the term of "Joint Optimization of Masks and Deep Recurrent Neural Networks for Monaural Source
Separation" (Huang et al., 2015, 1502.04149): estimates shall be unlike the other stems' references.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unmixcli.errors import OptionError
from unmixcli.models.base import SeparationModel
from unmixcli.spectrum import stft

Distance = Callable[[Tensor, Tensor], Tensor]

DOMAINS = ("waveform", "spectrum", "magnitude", "projection")
# Added to magnitudes (or their squares) under a logarithm or a fraction line: about -60 dB of a loud bin's neighbours.
FLOOR = 1e-3
# Mean square below which a reference counts as silent: -80 dBFS, below the noise of 16-bit recordings' chains.
SILENCE = 1e-8


def _mean(values: Tensor) -> Tensor:
    return values.flatten(2).mean(-1)


def _real(values: Tensor) -> Tensor:
    return torch.view_as_real(values) if values.is_complex() else values


def mse(estimates: Tensor, references: Tensor) -> Tensor:
    """Mean squared error; of spectra, half the mean of the squared distance in the plane."""
    return _mean((_real(estimates) - _real(references)).square())


def l1(estimates: Tensor, references: Tensor) -> Tensor:
    """Mean absolute error; of spectra, of real and imaginary parts."""
    return _mean((_real(estimates) - _real(references)).abs())


def kl(estimates: Tensor, references: Tensor) -> Tensor:
    """Generalised Kullback-Leibler divergence s log(s / y) - s + y of magnitudes, guarded as Huang et al. do."""
    ratio = references / (estimates + FLOOR) + FLOOR
    return _mean(references * ratio.log() - references + estimates)


def itakura_saito(estimates: Tensor, references: Tensor) -> Tensor:
    """Itakura-Saito divergence P / Q - log(P / Q) - 1 of the magnitudes' squares; blind to a common scale."""
    ratio = (references.square() + FLOOR) / (estimates.square() + FLOOR)
    return _mean(ratio - ratio.log() - 1)


def si_sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """Minus the scale-invariant SDR in dB, one scale for all channels. A silent reference counts zero."""
    y, s = estimates.flatten(2), references.flatten(2)
    scale = (y * s).sum(-1, keepdim=True) / s.square().sum(-1, keepdim=True).clamp_min(SILENCE)
    wanted = scale * s
    return _minus_decibels(wanted.square().mean(-1), (wanted - y).square().mean(-1), s)


def sdr(estimates: Tensor, references: Tensor) -> Tensor:
    """Minus the plain SDR in dB. A silent reference counts zero."""
    y, s = estimates.flatten(2), references.flatten(2)
    return _minus_decibels(s.square().mean(-1), (s - y).square().mean(-1), s)


def _minus_decibels(signal: Tensor, error: Tensor, reference: Tensor) -> Tensor:
    # The guard on both sides bounds the loss at +-80 dB for a reference at full scale.
    loss = 10 * torch.log10((error + SILENCE) / (signal + SILENCE))
    return torch.where(reference.square().mean(-1) > SILENCE, loss, torch.zeros_like(loss))


def mrstft(estimates: Tensor, references: Tensor, resolutions: Sequence[tuple[int, int]]) -> Tensor:
    """Spectral convergence plus the mean absolute difference of log magnitudes, averaged over resolutions.

    A silent reference has no spectral convergence (it would divide by zero); the logarithm's floor bounds the rest.

    Args:
        estimates, references: waveforms [B, S, C, T].
        resolutions: (n_fft, hop) of each.
    """
    total = estimates.new_zeros(estimates.shape[:2])
    heard = references.flatten(2).square().mean(-1) > SILENCE
    for n_fft, hop in resolutions:
        y, s = (magnitude(stft(wave, n_fft, hop)) for wave in (estimates, references))
        # a root of zero has no derivative
        distance = ((s - y).square().flatten(2).sum(-1) + 1e-12).sqrt()
        convergence = distance / s.square().flatten(2).sum(-1).sqrt().clamp_min(1e-6)
        difference = _mean(((y + FLOOR).log() - (s + FLOOR).log()).abs())
        total = total + torch.where(heard, convergence, torch.zeros_like(convergence)) + difference
    return total / len(resolutions)


def magnitude(spectrum: Tensor) -> Tensor:
    """|X|; its gradient at zero is zero."""
    return spectrum.abs()


# name -> (function, domains it can be computed on, the first is the default)
DISTANCES: dict[str, tuple[Distance, tuple[str, ...]]] = {
    "mse": (mse, DOMAINS),
    "l1": (l1, DOMAINS),
    "kl": (kl, ("magnitude",)),
    "is": (itakura_saito, ("magnitude",)),
    "si_sdr": (si_sdr, ("waveform",)),
    "sdr": (sdr, ("waveform",)),
}
KINDS = (*DISTANCES, "mrstft")
# Parallel WaveGAN's three windows, at the nearest powers of two.
RESOLUTIONS = (512, 1024, 2048)


def discriminative(
    distance: Distance, estimates: Tensor, references: Tensor, gamma: float, known: Tensor | None = None
) -> Tensor:
    """D(y_s, s_s) - gamma · mean over the other stems o of D(y_s, s_o), [B, S].

    Args:
        distance: one of the functions above.
        gamma: 0 <= gamma < 1; the paper's best is 0.05.
        known: [B, S] bool; stems whose reference is not known are not compared with.
    """
    loss = distance(estimates, references)
    stems = references.shape[1]
    if gamma == 0 or stems < 2:
        return loss
    total, count = torch.zeros_like(loss), torch.zeros_like(loss)
    for shift in range(1, stems):
        valid = torch.ones_like(loss) if known is None else known.roll(shift, 1).to(loss)
        total = total + valid * distance(estimates, references.roll(shift, 1))
        count = count + valid
    return loss - gamma * total / count.clamp_min(1)


@dataclass(frozen=True)
class Loss:
    """One summand of an objective.

    Attributes:
        kind: one of `KINDS`.
        on: "waveform", "spectrum" (complex), "magnitude" or "projection"; "" is the kind's own.
        weight: its factor.
        n_fft: window lengths of the transform of waveforms, averaged over; empty: the network's own spectra (mrstft:
            `RESOLUTIONS`).
        hop: samples between frames as a fraction of the window.
        discriminative: gamma of Huang et al., 0 <= gamma < 1.
    """

    kind: str = "l1"
    on: str = ""
    weight: float = 1.0
    n_fft: tuple[int, ...] = ()
    hop: float = 0.25
    discriminative: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"the loss {self.kind!r} is not known; known are {', '.join(KINDS)}.")
        domains = DISTANCES[self.kind][1] if self.kind in DISTANCES else ("waveform",)
        if not self.on:
            object.__setattr__(self, "on", domains[0])
        for rule, message in (
            (self.on in domains, f"on is {self.on!r}, expected {' or '.join(domains)}"),
            (self.weight > 0, f"weight is {self.weight}, expected more than 0"),
            (all(32 <= size <= 1 << 16 for size in self.n_fft), f"n_fft is {self.n_fft}, expected 32 to 65536"),
            (0 < self.hop <= 0.5, f"hop is {self.hop}, expected a fraction of the window, at most 0.5"),
            # from 1 on, the loss no longer rewards the fit
            (0 <= self.discriminative < 1, f"discriminative is {self.discriminative}, expected 0 <= value < 1"),
            (not (self.n_fft and self.on == "waveform" and self.kind != "mrstft"), "n_fft is for losses on spectra"),
            (
                not (self.n_fft and self.on == "projection"),
                "a projection is on the network's own spectra, without n_fft",
            ),
            (not self.discriminative or self.kind in ("mse", "l1", "kl", "is"), "discriminative does not go with it"),
        ):
            if not rule:
                raise OptionError(f"the loss {self.kind}: {message}.")

    @property
    def own_spectra(self) -> bool:
        """Computed on the spectra the network gives."""
        return self.on in ("spectrum", "magnitude") and not self.n_fft

    @property
    def wanted(self) -> str:
        """What it compares: a key of `SeparationModel.training_outputs`."""
        if self.on == "projection":
            return "projections"
        return "spectra" if self.own_spectra else "waveforms"

    @property
    def title(self) -> str:
        """Its column in the log."""
        sizes = "_".join(map(str, self.n_fft))
        return "_".join(part for part in (self.kind, "" if self.kind == "mrstft" else self.on, sizes) if part)

    def resolutions(self) -> tuple[tuple[int, int], ...]:
        """(n_fft, hop in samples) of each transform."""
        return tuple((size, max(1, round(size * self.hop))) for size in self.n_fft or RESOLUTIONS)


@dataclass
class Objective:
    """A weighted sum of losses over the stems that are known.

    Args:
        losses: the summands.
        stem_weights: factor of each stem, S of them; empty: all the same.
    """

    losses: Sequence[Loss]
    stem_weights: Sequence[float] = ()
    wanted: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        if not self.losses:
            raise OptionError("there is no loss to train with.", hint="add a [[loss]] table to the recipe.")
        self.wanted = frozenset(loss.wanted for loss in self.losses)

    @property
    def titles(self) -> tuple[str, ...]:
        """A name for every summand."""
        return tuple(loss.title for loss in self.losses)

    def __call__(
        self,
        outputs: Mapping[str, Tensor],
        references: Tensor,
        known: Tensor | None,
        model: SeparationModel,
        mixture: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch.

        Args:
            outputs: of `SeparationModel.training_outputs`.
            references: [B, S, C, T].
            known: [B, S] bool: which references are true; None: all.
            model: for its own transform.
            mixture: [B, C, T], for projections; None: the sum of the references.

        Returns:
            The sum (with gradient), and the summands unweighted and detached, [number of losses].

        Raises:
            OptionError: a loss on the network's own spectra or projections, and it has none.
        """
        shape = references.shape[:2]
        weights = torch.ones(shape, device=references.device) if known is None else known.float()
        if self.stem_weights:
            weights = weights * weights.new_tensor(self.stem_weights)
        scale = weights.sum().clamp_min(1e-6)
        pairs = {}
        if "waveforms" in self.wanted:
            waves = outputs["waveforms"]
            cut = (references.shape[-1] - waves.shape[-1]) // 2  # what stands around the middle is context
            pairs["waveforms"] = (waves, references[..., cut : cut + waves.shape[-1]])
        if "spectra" in self.wanted:
            pairs["spectra"] = self._own(outputs, "spectra", model.training_spectra(references), model)
        if "projections" in self.wanted:
            heard = references.sum(1) if mixture is None else mixture
            target = model.training_projections(heard, references)
            pairs["projections"] = self._own(outputs, "projections", target, model)
        values = [(self._value(loss, pairs, known) * weights).sum() / scale for loss in self.losses]
        total = torch.stack([loss.weight * value for loss, value in zip(self.losses, values, strict=True)]).sum()
        return total, torch.stack(values).detach()

    @staticmethod
    def _own(
        outputs: Mapping[str, Tensor], name: str, target: Tensor | None, model: SeparationModel
    ) -> tuple[Tensor, Tensor]:
        if target is None or name not in outputs:
            raise OptionError(
                f"{type(model).__name__} gives no {name} of its own for a loss.", hint="give the loss an n_fft."
            )
        return outputs[name], target

    @staticmethod
    def _value(loss: Loss, pairs: Mapping[str, tuple[Tensor, Tensor]], known: Tensor | None) -> Tensor:
        y, s = pairs[loss.wanted]
        if loss.kind == "mrstft":
            return mrstft(y, s, loss.resolutions())
        compared = [(y, s)]
        if loss.n_fft:
            compared = [(stft(y, size, hop), stft(s, size, hop)) for size, hop in loss.resolutions()]
        if loss.on == "magnitude":
            compared = [(magnitude(y), magnitude(s)) for y, s in compared]
        distance = DISTANCES[loss.kind][0]
        return torch.stack([discriminative(distance, y, s, loss.discriminative, known) for y, s in compared]).mean(0)
