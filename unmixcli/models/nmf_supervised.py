"""Supervised NMF: the spectra of each stem are learnt from examples; only when they sound is found out.

P. Smaragdis, B. Raj and M. Shashanka, "Supervised and semi-supervised separation of sounds from single-channel
mixtures", ICA 2007. Each stem has a dictionary of atoms W_s, learnt from recordings of it (`learn_dictionary`, plain
NMF) or together from mixtures (`unmix train`, through the unrolled updates: J. Le Roux, J. R. Hershey and F. Weninger,
"Deep NMF for speech separation", ICASSP 2015). Of a mixture only the activations H are found, with the dictionaries
side by side; a ratio mask W_s H_s / Σ W H gives the stem. A stem that is not among `learnt` has no dictionary
(semi-supervised): its atoms are found on each segment, beside the fixed ones.

Limits: needs examples that sound like the song. A spectrum that both a voice and a guitar can have goes to both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.masking import masked
from unmixcli.models.nmf_updates import FLOOR, factorise, scaled, starting_point, update_activations, update_atoms
from unmixcli.spectrum import istft, stft

_DEFAULTS: dict[str, float] = {
    "sample_rate": 44100,
    "channels": 2,
    "n_fft": 2048,
    "hop": 1024,
    "atoms": 50,
    "beta": 1.0,
    "iterations": 50,
    "power": 1.0,
    "segment_seconds": 30.0,
    "edge_seconds": 0.5,
}


class NMFSupervised(SeparationModel):
    """Stems by their dictionaries.

    Config (with its defaults): sample_rate 44100, channels 2, n_fft 2048, hop 1024, atoms 50 of each stem, beta 1 (0
    Itakura-Saito, 1 Kullback-Leibler, 2 Euclidean), iterations 50, power 1 of the masks, segment_seconds 30,
    edge_seconds 0.5; sources: all stems that a mixture is made of, required; learnt: those with a dictionary (all).
    State: `dictionaries.STEM` [F, atoms] of each of them.
    """

    trainable = True
    edge_padding = "none"
    overlap = 0.05

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        config = dict(config)
        sources = config.pop("sources", None)
        learnt = config.pop("learnt", sources)
        values = {**_DEFAULTS, **config}
        _check(values, sources, learnt, stems)
        self.sources, self.stems = tuple(sources), tuple(stems)
        self.covers_mixture = set(self.sources) == set(self.stems)
        self.sample_rate, self.channels = int(values["sample_rate"]), int(values["channels"])
        self.n_fft, self.hop, self.atoms = int(values["n_fft"]), int(values["hop"]), int(values["atoms"])
        self.beta, self.power, self.iterations = values["beta"], values["power"], int(values["iterations"])
        self.segment_multiple = self.hop
        edge = round(values["edge_seconds"] * self.sample_rate)
        self.edge = edge - edge % self.hop
        self.segment_length = round(values["segment_seconds"] * self.sample_rate)
        bins = self.n_fft // 2 + 1
        self.dictionaries = nn.ParameterDict(
            {stem: nn.Parameter(torch.rand(bins, self.atoms) + 0.1) for stem in self.sources if stem in learnt}
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> NMFSupervised:
        """Build the model; dictionaries are random until a state is loaded."""
        return cls(config, stems)

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate. mixture [B, C, T] -> estimates [B, S, C, T]."""
        return self.training_outputs(mixture, ("waveforms",))["waveforms"]

    def training_outputs(self, mixture: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Estimates as waveforms and spectra, as wanted."""
        spectrum = stft(mixture, self.n_fft, self.hop)  # [B, C, F, N]
        masks = torch.stack([self._masks(scaled(item.abs().mean(dim=0))) for item in spectrum])  # [B, S, F, N]
        spectra = masked(spectrum[:, None], masks[:, :, None])
        outputs = {"spectra": spectra}
        if "waveforms" in wanted:
            outputs["waveforms"] = istft(spectra, self.n_fft, self.hop, mixture.shape[-1])
        return outputs

    def training_spectra(self, waves: Tensor) -> Tensor:
        """[..., T] -> complex [..., F, N]"""
        return stft(waves, self.n_fft, self.hop)

    def _masks(self, v: Tensor) -> Tensor:
        """Shares of the stems in each bin, [F, N] -> [S, F, N]; those of all sources sum to one."""
        w, h = self._factors(v)
        shares = torch.stack([a @ b for a, b in zip(w.split(self.atoms, dim=1), h.split(self.atoms), strict=True)])
        shares = (shares / shares.amax(dim=0)).clamp_min(FLOOR) ** self.power
        shares = shares / shares.sum(dim=0)
        return shares[[self.sources.index(stem) for stem in self.stems]]

    def _factors(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """W [F, K] and H [K, N] of all sources, in their order: K is their number times `atoms`."""
        free, h = starting_point(v, self.atoms * len(self.sources))
        atoms = dict(zip(self.sources, free.split(self.atoms, dim=1), strict=True))
        fixed = {stem: unit(learnt.abs()) for stem, learnt in self.dictionaries.items()}
        w = torch.cat(list((atoms | fixed).values()), dim=1)
        for _ in range(self.iterations):
            h = update_activations(v, w, h, self.beta)
            if len(fixed) < len(atoms):
                better = unit(update_atoms(v, w, h, self.beta)).split(self.atoms, dim=1)
                w = torch.cat(list((dict(zip(self.sources, better, strict=True)) | fixed).values()), dim=1)
        return w, h


def unit(atoms: Tensor) -> Tensor:
    """Columns that sum to one."""
    return atoms / atoms.sum(dim=0).clamp_min(torch.finfo(atoms.dtype).tiny)


def learn_dictionary(
    waves: Sequence[Tensor], *, n_fft: int, hop: int, atoms: int, beta: float = 1.0, iterations: int = 100
) -> Tensor:
    """The atoms of recordings of one stem alone.

    Args:
        waves: [C, T] each, at the model's rate. All of them together are held in memory as magnitudes.
        n_fft: of the frames.
        hop: of the frames.
        atoms: K.
        beta: of the divergence.
        iterations: rounds of updates.

    Returns:
        [F, K]: a value of `NMFSupervised`'s state.

    Raises:
        CheckpointError: there is no sound in the recordings.
    """
    frames = torch.cat([stft(wave, n_fft, hop).abs().mean(dim=0) for wave in waves], dim=1)
    loudness = frames.sum(dim=0)
    heard = loudness > 1e-3 * loudness.amax()  # silent frames teach nothing
    if not bool(heard.any()):
        raise CheckpointError("the recordings to learn a dictionary from are silent.")
    return factorise(scaled(frames[:, heard]), atoms, beta=beta, iterations=iterations)[0]


def _check(values: Mapping[str, Any], sources: Any, learnt: Any, stems: Sequence[str]) -> None:
    def wrong(name: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(f"nmf_supervised: {name} is {value!r}, expected {expected}.")

    unknown = sorted(set(values) - set(_DEFAULTS))
    if unknown:
        known = ", ".join(sorted({*_DEFAULTS, "sources", "learnt"}))
        raise CheckpointError(f"nmf_supervised has no setting {unknown[0]!r}; it has {known}.")
    for name, default in _DEFAULTS.items():
        value = values[name]
        kind = int if isinstance(default, int) else (int, float)
        least = 0 if isinstance(default, float) else 1
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < 1e9:
            raise wrong(name, value, f"a number like {default}")
    if not isinstance(sources, (list, tuple)) or not all(
        isinstance(stem, str) and stem.isidentifier() for stem in sources
    ):
        raise wrong("sources", sources, "a list of all stems that a mixture is made of")
    if not stems or not set(stems) <= set(sources) or len(set(sources)) < len(sources):
        raise wrong("sources", sources, f"each stem once, {', '.join(stems)} among them")
    if not isinstance(learnt, (list, tuple)) or not learnt or not set(learnt) <= set(sources):
        raise wrong("learnt", learnt, f"some of {', '.join(sources)}")
    if values["channels"] not in (1, 2):
        raise wrong("channels", values["channels"], "1 or 2")
    if values["hop"] > values["n_fft"] // 2:
        raise wrong("hop", values["hop"], f"at most half of n_fft ({values['n_fft']})")
    if values["segment_seconds"] <= 2 * values["edge_seconds"]:
        raise wrong("segment_seconds", values["segment_seconds"], "more than twice edge_seconds")
