"""REPET-SIM: what comes back again and again is the accompaniment, the rest is the voice.

Z. Rafii and B. Pardo, "Music/Voice Separation using the Similarity Matrix", ISMIR 2012. For every frame the most
similar frames of the same segment are found (cosine of the magnitude spectra); the median over them is the part of that
frame that repeats, and the soft mask min(median, V) / V keeps it. Below the voice (100 Hz) everything is accompaniment.
Checked in the tests against a slow plain version of the paper's steps.

Limits: it needs music that repeats, and at least about 20 seconds of it. Segments are long for that reason: similar
frames are looked for in `segment_seconds` of sound, of which `edge_seconds` on each side are only listened to.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unmixcli.models.masking import MEDIAN_ELEMENTS, MaskingMethod, Median, masked


class RepetSim(MaskingMethod):
    """Vocals and accompaniment by repetition.

    Settings (`defaults`): `similar_frames` most frames in a median; `distance_seconds` least distance between two of
    them; `voice_from_hz` where the voice begins; the rest is size and place of frames and segments.
    """

    all_stems = ("vocals", "accompaniment")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "n_fft": 2048,
        "hop": 1024,
        "segment_seconds": 60.0,
        "edge_seconds": 5.0,
        "overlap": 0.05,
        "similar_frames": 31,
        "distance_seconds": 1.0,
        "voice_from_hz": 100.0,
    }

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """The vocals."""
        spectrum = self.spectrum(mixture)
        mask = voice_mask(
            spectrum.abs(),
            similar_frames=int(self.config["similar_frames"]),
            distance=round(self.config["distance_seconds"] * self.sample_rate / self.hop),
            low_bins=bins_below(self.config["voice_from_hz"], self.n_fft, self.sample_rate),
        )
        return {"vocals": self.wave(masked(spectrum, mask), mixture.shape[-1])}


def bins_below(frequency_hz: float, n_fft: int, sample_rate: int) -> int:
    """How many bins of a spectrum lie below a frequency, the constant included."""
    return -int(-frequency_hz * n_fft // sample_rate)


def voice_mask(magnitude: Tensor, *, similar_frames: int, distance: int, low_bins: int) -> Tensor:
    """The share of each bin that does not repeat: 0 to 1, and 0 in the lowest `low_bins`. [C, F, N] -> [C, F, N]

    The other arguments are those of `repeating_magnitude`.
    """
    model = repeating_magnitude(magnitude, similar_frames=similar_frames, distance=distance)
    mask = model.div_(magnitude.clamp_min(torch.finfo(magnitude.dtype).tiny)).neg_().add_(1).clamp_(0, 1)
    mask.masked_fill_(magnitude <= 0, 0)
    mask[:, :low_bins] = 0
    return mask


def repeating_magnitude(magnitude: Tensor, *, similar_frames: int, distance: int) -> Tensor:
    """The part of each frame that its most similar frames share.

    Args:
        magnitude: [C, F, N].
        similar_frames: most frames in one median, the frame itself included; even numbers count as one less.
        distance: frames between two similar frames, at least.

    Returns:
        min(median over similar frames, magnitude), [C, F, N]. With an even number of them the median is the lower of
        the two in the middle.
    """
    frames = magnitude.shape[-1]
    size = max(1, similar_frames - (similar_frames + 1) % 2)
    chosen, valid = similar_frames_of(magnitude.mean(dim=0), size, distance)
    # In the place of missing neighbours stand -inf and +inf in turn: the median of the others stays where it was.
    missing = torch.arange(size, device=magnitude.device) - valid.sum(dim=1, keepdim=True)
    chosen = torch.where(valid, chosen, frames + missing % 2)
    result = torch.empty_like(magnitude)
    for channel, image in enumerate(magnitude):
        result[channel] = torch.minimum(_median_over(image.T, chosen).T, image)
    return result


def _median_over(rows: Tensor, chosen: Tensor) -> Tensor:
    """For every row of `chosen` [N, K] the median over those rows of [N, F]; N stands for -inf, N + 1 for +inf."""
    width = rows.shape[1]
    infinite = torch.tensor([-torch.inf, torch.inf], dtype=rows.dtype, device=rows.device)
    table = torch.cat((rows, infinite[:, None].expand(2, width)))
    result = torch.empty(len(chosen), width, dtype=rows.dtype, device=rows.device)
    median = Median(chosen.shape[1])
    step = max(1, MEDIAN_ELEMENTS // width)
    for start in range(0, len(chosen), step):
        block = result[start : start + step]
        planes = median.planes(block)
        torch.index_select(table, 0, chosen[start : start + step].T.flatten(), out=planes.view(-1, width))
        block.copy_(median())
    return result


def similar_frames_of(spectrum: Tensor, count: int, distance: int) -> tuple[Tensor, Tensor]:
    """For every frame the most similar ones: local maxima of its row of the similarity matrix.

    Args:
        spectrum: magnitudes [F, N].
        count: most frames to choose for one frame, itself included.
        distance: a frame is only chosen if no frame less than this far from it is more similar.

    Returns:
        indices [N, count], the most similar first, and which of them are valid [N, count]: those that are local maxima.
    """
    frames = spectrum.shape[-1]
    norm = spectrum.norm(dim=0, keepdim=True)
    unit = spectrum / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    kept = min(count, frames)
    indices, valids = [], []
    for start in range(0, frames, 512):  # rows of the matrix at a time: it is never held whole
        similarity = unit[:, start : start + 512].T @ unit
        peaks = similarity.masked_fill(similarity < _running_maximum(similarity, distance), -1.0)
        # The frame itself always counts, even if its own row holds an equal (or, by rounding, larger) value.
        own = torch.arange(start, start + len(peaks), device=peaks.device)
        peaks[own - start, own] = 2.0
        best = peaks.topk(kept, dim=1)
        indices.append(best.indices)
        valids.append(best.values > 0)
    chosen, valid = torch.cat(indices), torch.cat(valids)
    padding = (0, count - kept)
    return torch.nn.functional.pad(chosen, padding), torch.nn.functional.pad(valid, padding)


def _running_maximum(rows: Tensor, distance: int) -> Tensor:
    """Maximum over the neighbours less than `distance` away along the last axis, [R, N] -> [R, N].

    Windows of one element are doubled until they are wide enough, so the cost grows with log(distance).
    """
    width = 2 * max(1, distance) - 1
    reach = width // 2
    result = torch.nn.functional.pad(rows, (reach, reach), value=-torch.inf)
    done = 1
    while done < width:
        step = min(done, width - done)
        result = torch.maximum(result[:, :-step], result[:, step:])
        done += step
    return result
