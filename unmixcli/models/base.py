"""The contract between a separation model and the pipeline: waveform in, waveform out, and data on the model.

The pipeline never asks for a model's type. What it must know to cut, run and join segments stands in the
attributes below; a new need is a new attribute with a default, not an `isinstance`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

EdgePadding = Literal["reflect", "zero", "none"]
Normalization = Literal["none", "track", "level"]


class SeparationModel(torch.nn.Module):
    """A network or a classical method that separates a waveform.

    `forward(mixture [B, C, T]) -> [B, S, C, T]`, float32, same T for every T >= 1; items of a batch are
    independent of each other; the input is never edited; silence gives no NaN. In evaluation mode it is
    deterministic.

    Attributes:
        sample_rate: Hz the model works at.
        channels: C it takes, 1 or 2.
        stems: names of the S outputs, in order.
        segment_length: L, samples one forward call should see, `edge` included on both sides.
        edge: samples at each side of a segment's output that are not to be trusted (missing context).
            `segment_length > 2 * edge`. Only the `segment_length - 2 * edge` samples between are used.
        fixed_segment: True if the model only works at exactly `segment_length` samples; the last segment is
            then padded, and a user can't choose another length.
        segment_multiple: a segment's used part starts at a multiple of this many samples, and a user's segment
            length is rounded to it (a model that works in blocks keeps its block grid that way).
        overlap: fraction of the used part shared with the next segment, 0 <= overlap < 1; the default for
            `Options.overlap`. Zero means that used parts stand side by side without a cross-fade.
        edge_padding: what the first and the last segment see beyond the ends of the track: "reflect" (the signal
            mirrored), "zero" (silence), or "none": nothing is added, the segment is shorter, and its outer
            end is trusted (for models that see the start and the end of a track as such).
        normalization: "track": the pipeline subtracts the mean and divides by the standard deviation of the
            whole track's mono mix before the model and undoes it after; "level": it divides by the largest `level` of
            the track's segments and multiplies after; "none": samples as they are.
        covers_mixture: True if the stems together are meant to add up to the mixture.
        max_batch: segments that one forward call gains from on a CPU (1 unless measured otherwise).
        cpu_workers: True if segments should run side by side on the CPU, one intra-op thread each (measured to be
            faster than one segment with all threads).
    """

    sample_rate: int = 44100
    channels: int = 2
    stems: tuple[str, ...] = ()
    segment_length: int = 441000
    edge: int = 0
    fixed_segment: bool = False
    segment_multiple: int = 1
    overlap: float = 0.25
    edge_padding: EdgePadding = "reflect"
    normalization: Normalization = "none"
    covers_mixture: bool = True
    max_batch: int = 1
    cpu_workers: bool = False

    # Weights are read from files: a classical method has none.
    has_weights: ClassVar[bool] = True
    # `unmix train` can train it: in training mode gradients flow through `forward`, and `convert_state` takes the
    # module's own state dict as one file. Networks that fold published weights for inference are not trainable.
    trainable: ClassVar[bool] = False
    # Its one stem is what it hears, repaired: what it leaves over is no part of the mixture, and nothing may be given
    # back to it.
    restores: ClassVar[bool] = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> SeparationModel:
        """Build the module, weights not yet loaded.

        Args:
            config: the registry entry's `config`: plain JSON values.
            stems: the stems to compute, a subset of the entry's stems, in the entry's order.

        Raises:
            CheckpointError: a value in `config` that this architecture can't be built with.
        """
        raise TypeError(f"{cls.__name__} does not say how it is built from a config")

    @classmethod
    def complete_config(cls, config: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The config with what the weights files say about themselves.

        Args:
            config: the registry entry's `config`.
            settings: part name -> what stands beside the tensors in its file (`checkpoint_read.find_settings`), empty
                where nothing does.
        """
        return dict(config)

    @classmethod
    def parts_needed(cls, config: Mapping[str, Any], parts: Sequence[str], stems: Sequence[str]) -> tuple[str, ...]:
        """Which of the entry's files (by their `part` name) must be loaded to compute `stems`.

        The default is all of them. A model made of one network per stem returns only those it needs.
        """
        return tuple(parts)

    @classmethod
    def known_labels(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of which a user may say that they sound, as `labels` in the config; empty: there are none."""
        return ()

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Published tensors, per part, as this module's state dict.

        Args:
            config: the registry entry's `config`.
            states: part name -> the published file's state dict (names as published).

        Raises:
            CheckpointError: tensors that are missing or have another shape than the architecture's.
        """
        if len(states) != 1:
            raise TypeError(f"{cls.__name__} takes one file, {len(states)} were given")
        return dict(next(iter(states.values())))

    def context(self, used: int) -> tuple[int, int]:
        """Samples before and after a used part of `used` samples that belong to its segment.

        The default is `edge` on both sides, and with `fixed_segment` whatever is missing after it. A model that wants
        a shorter last segment elsewhere says so here; what stands before may not be more for a longer used part.
        """
        return self.edge, self.segment_length - self.edge - used if self.fixed_segment else self.edge

    def level(self, mixture: Tensor) -> Tensor:
        """How loud a segment is, for models whose `normalization` is "level". [B, C, T] -> [B], >= 0"""
        raise TypeError(f"{type(self).__name__} has no level")

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate. mixture [B, C, T] -> estimates [B, S, C, T]."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def training_outputs(self, mixture: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Estimates for the losses of training, with gradients.

        A network that overrides this computes only what is wanted: a loss on spectra then costs no inverse transform.

        Args:
            mixture: [B, C, T].
            wanted: some of "waveforms", "spectra" and "projections".

        Returns:
            At least what is wanted and the model has: "waveforms" [B, S, C, T], or their middle where a network gives
            only that; "spectra" complex [B, S, C, F, N], laid out as `training_spectra` gives them; "projections" real
            [B, S, C, F, N], what `training_projections` gives of references.
        """
        return {"waveforms": self(mixture)}

    def hint(self, references: Tensor) -> None:
        """Told what is in the next mixtures, in training and when it is validated; nothing is done with it here.

        A network that is told by its user what sounds takes that from here.

        Args:
            references: [B, S, C, T], silent where they are not known.
        """

    def own_loss(self) -> Tensor | None:
        """What the network adds to the recipe's losses for the last `training_outputs`, a number with gradients; None:
        nothing."""
        return None

    def training_spectra(self, waves: Tensor) -> Tensor | None:
        """The transform the network works in, so that references can be compared with its spectra.

        Args:
            waves: [..., T].

        Returns:
            complex [..., F, N], or None where `training_outputs` gives no spectra.
        """
        return None

    def training_projections(self, mixture: Tensor, references: Tensor) -> Tensor | None:
        """How much of each reference's spectrum lies in the direction of the mixture's, bin by bin: the target of a
        network that masks ("phase-sensitive approximation", Erdogan et al., ICASSP 2015).

        Args:
            mixture: [B, C, T].
            references: [B, S, C, T].

        Returns:
            real [B, S, C, F, N], or None where `training_outputs` gives no projections.
        """
        return None
