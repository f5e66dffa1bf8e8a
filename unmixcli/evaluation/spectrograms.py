"""Pictures of a separation: the mixture, each stem, and the mask that would make the stem of the mixture.

    mixture  │ ░▒▓█  spectrogram
    vocals   │ ░▒▓█  spectrogram │ ░▒▓█  mask
    drums    │ ░▒▓█  spectrogram │ ░▒▓█  mask

Frequency is drawn on a logarithmic axis, power in dB below the loudest pixel of the mixture. A mask here is what was
done, whatever the model: the ratio of the stem's magnitude to the mixture's in every pixel, 1 where it is more. Sound
is read as a stream and its picture is never wider than `MOST_COLUMNS`, so memory does not depend on the length.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from unmixcli.audio.decode import open_audio
from unmixcli.errors import OptionError
from unmixcli.evaluation.plot import check_plot, matplotlib_or_error
from unmixcli.evaluation.projection import Signal, blocks_of
from unmixcli.evaluation.report import write_file

Image = NDArray[np.float64]
Blocks = Iterable[NDArray[np.float32]]

# Twice as many columns are merged in pairs: more than a screen has, and a second of a song still shows.
MOST_COLUMNS = 2000
_BANDS = 240
_LOWEST_HZ = 40.0
_RANGE_DB = 80.0
_FRAME_SECONDS = 0.093  # 4096 samples at 44.1 kHz: tones of a bass apart
_HOP_SECONDS = 0.0232
_FRAMES_AT_ONCE = 256
_TICKS_HZ = (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)

# Figures of two threads share matplotlib's fonts.
_DRAWING = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """Power over time and logarithmic frequency.

    Attributes:
        power: [bands, columns], mean of channels and frames.
        seconds: length of the sound.
        column_seconds: of one column.
        frequencies: [bands], Hz, rising.
    """

    power: Image
    seconds: float
    column_seconds: float
    frequencies: NDArray[np.float64]


def picture_of(blocks: Blocks, sample_rate: int) -> Picture:
    """The picture of a sound.

    Args:
        blocks: [C, t] each, of any lengths.
        sample_rate: Hz.

    Raises:
        OptionError: there are no samples in it.
    """
    n_fft, hop = max(64, round(_FRAME_SECONDS * sample_rate)), max(16, round(_HOP_SECONDS * sample_rate))
    frequencies = np.geomspace(min(_LOWEST_HZ, sample_rate / 8), sample_rate / 2, _BANDS)
    bands = _band_weights(frequencies * n_fft / sample_rate, n_fft // 2 + 1)
    columns = _Columns()
    length = 0

    def counted() -> Iterator[NDArray[np.float32]]:
        nonlocal length
        for block in blocks:
            length += block.shape[1]
            yield block

    for spectra in _power_spectra(counted(), n_fft, hop):
        columns.add(bands @ spectra.T)
    if not length:
        raise OptionError("there is no sound to draw.")
    return Picture(columns.image(), length / sample_rate, columns.merged * hop / sample_rate, frequencies)


class _Columns:
    """Frames as they come, the mean of `merged` of them in each column; that number doubles as the sound goes on."""

    def __init__(self) -> None:
        self.merged = 1
        self._done = np.zeros((_BANDS, 0))
        self._waiting = np.zeros((_BANDS, 0))

    def add(self, frames: Image) -> None:
        """Append [bands, n]."""
        self._waiting = np.concatenate((self._waiting, frames), axis=1)
        self._take()
        while self._done.shape[1] > MOST_COLUMNS:
            single = self._done
            pairs = single.shape[1] // 2
            odd = np.repeat(single[:, 2 * pairs :], self.merged, axis=1)
            self._done = single[:, : 2 * pairs].reshape(_BANDS, pairs, 2).mean(axis=-1)
            self._waiting = np.concatenate((odd, self._waiting), axis=1)
            self.merged *= 2
            self._take()

    def _take(self) -> None:
        count = self._waiting.shape[1] // self.merged
        whole = self._waiting[:, : count * self.merged].reshape(_BANDS, count, self.merged).mean(axis=-1)
        self._done = np.concatenate((self._done, whole), axis=1)
        self._waiting = self._waiting[:, count * self.merged :]

    def image(self) -> Image:
        """[bands, columns]; the last column may be of fewer frames."""
        if not self._waiting.shape[1]:
            return self._done
        return np.concatenate((self._done, self._waiting.mean(axis=1, keepdims=True)), axis=1)


def _power_spectra(blocks: Blocks, n_fft: int, hop: int) -> Iterator[Image]:
    """[n, bins] of some frames at a time, mean of the channels; the first is centred on sample 0, silence around."""
    window = np.hanning(n_fft + 1)[:-1]
    held: NDArray[np.float32] | None = None

    def frames() -> Iterator[Image]:
        nonlocal held
        assert held is not None
        while held.shape[1] >= n_fft:
            count = min(_FRAMES_AT_ONCE, (held.shape[1] - n_fft) // hop + 1)
            pieces = np.lib.stride_tricks.sliding_window_view(held, n_fft, axis=-1)[:, : count * hop : hop]
            yield np.square(np.abs(scipy.fft.rfft(pieces * window))).mean(axis=0)
            held = held[:, count * hop :]

    for block in blocks:
        before = np.zeros((block.shape[0], n_fft // 2), np.float32) if held is None else held
        held = np.concatenate((before, block), axis=1)
        yield from frames()
    if held is not None:
        held = np.concatenate((held, np.zeros((held.shape[0], n_fft // 2), np.float32)), axis=1)
        yield from frames()


def _band_weights(place: NDArray[np.float64], bins: int) -> Image:
    """[bands, bins]: the mean power between the edges of each band, where bin k reaches from k - 1/2 to k + 1/2.

    Args:
        place: of the bands' middles, in bins.
        bins: of the spectrum.
    """
    edges = np.concatenate([[place[0]], np.sqrt(place[1:] * place[:-1]), [place[-1]]])
    low, high = edges[:-1, None], edges[1:, None]
    k = np.arange(bins)
    shared = np.clip(np.minimum(high, k + 0.5) - np.maximum(low, k - 0.5), 0, None)
    weights: Image = shared / (high - low)
    return weights


def mask_of(stem: Picture, mixture: Picture) -> Image:
    """|stem| / |mixture| of every pixel, 0 to 1; 0 where the mixture is silent. [bands, columns of both]"""
    count = min(stem.power.shape[1], mixture.power.shape[1])
    above, below = stem.power[:, :count], mixture.power[:, :count]
    ratio = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    mask: Image = np.sqrt(ratio).clip(0, 1)
    return mask


def file_blocks(
    path: Path, *, track: int = 0, start: float = 0.0, end: float | None = None
) -> Iterator[NDArray[np.float32]]:
    """The part of a file from `start` to `end` (seconds; None: its end), in blocks [C, t]."""
    with open_audio(path, track=track) as decoder:
        at = round(start * decoder.info.sample_rate)
        stop = None if end is None else round(end * decoder.info.sample_rate)
        for block in decoder.blocks_from(at):
            if stop is None:
                yield block
            elif at < stop:
                yield block[:, : stop - at]
            else:
                return
            at += block.shape[1]


def draw_files(
    path: Path, mixture: Path, stems: Mapping[str, Path], *, track: int = 0, start: float = 0.0,
    end: float | None = None, title: str = "",
) -> None:  # fmt: skip
    """Draw a separation's files.

    Args:
        path: of the picture; see `plot.PLOT_SUFFIXES`.
        mixture: the file that was separated.
        stems: name -> file.
        track: audio track of the mixture.
        start: of the part of the mixture that the stems are of, seconds.
        end: of it; None: to its end.
        title: above the picture.

    Raises:
        InputError: a file can't be read.
        OptionError: matplotlib is missing, or there is no sound.
        OutputError: the picture can't be written.
    """
    check_plot(path)

    def picture(blocks: Blocks, where: Path, track: int = 0) -> Picture:
        with open_audio(where, track=track) as decoder:
            rate = decoder.info.sample_rate
        return picture_of(blocks, rate)

    drawn = {name: picture(file_blocks(stem), stem) for name, stem in stems.items()}
    heard = picture(file_blocks(mixture, track=track, start=start, end=end), mixture, track)
    draw(path, heard, drawn, title=title, start=start)


def draw_signals(
    path: Path, mixture: Signal, stems: Mapping[str, Signal], sample_rate: int, *, title: str = ""
) -> None:
    """As `draw_files`, of signals [C, T], which may be mapped files."""

    def picture(signal: Signal) -> Picture:
        return picture_of((np.asarray(signal[:, part]) for part in blocks_of(signal.shape[1])), sample_rate)

    draw(path, picture(mixture), {name: picture(signal) for name, signal in stems.items()}, title=title)


def draw(path: Path, mixture: Picture, stems: Mapping[str, Picture], *, title: str = "", start: float = 0.0) -> None:
    """Draw pictures of a mixture and its stems, with masks, to a file.

    Args:
        path: png, pdf or svg.
        mixture: on top.
        stems: name -> picture, from top to bottom.
        title: above.
        start: what the time axis begins with, seconds.
    """
    check_plot(path)
    memory = io.BytesIO()
    with _DRAWING:
        figure = matplotlib_or_error().figure.Figure(figsize=(13, 2.2 * (len(stems) + 1) + 0.6), layout="constrained")
        axes = figure.subplots(len(stems) + 1, 2, squeeze=False, sharex=True)
        loudest = 10 * np.log10(max(float(mixture.power.max()), 1e-20))
        shown = _show(axes[0, 0], _decibels(mixture, loudest), mixture, start, "mixture", "magma", (-_RANGE_DB, 0))
        axes[0, 1].axis("off")
        masked = None
        for (name, stem), (left, right) in zip(stems.items(), axes[1:], strict=True):
            _show(left, _decibels(stem, loudest), stem, start, name, "magma", (-_RANGE_DB, 0))
            masked = _show(right, mask_of(stem, mixture), stem, start, f"mask of {name}", "gray", (0, 1))
        for axis in axes[-1]:
            axis.set_xlabel("seconds")
        figure.colorbar(shown, ax=axes[:, 0], label="dB below the mixture's loudest", fraction=0.03)
        if masked is not None:
            figure.colorbar(masked, ax=axes[:, 1], label="|stem| / |mixture|", fraction=0.03)
        figure.suptitle(title, fontsize=11, parse_math=False)
        figure.savefig(memory, format=path.suffix[1:].lower(), dpi=110)
    write_file(path, memory.getvalue())


def _decibels(picture: Picture, loudest: float) -> Image:
    decibels: Image = 10 * np.log10(picture.power + 1e-20) - loudest
    return decibels


def _show(axis: Any, image: Image, picture: Picture, start: float, title: str, colours: str,
          limits: tuple[float, float]) -> Any:  # fmt: skip
    """Draw an image [bands, columns] with its axes."""
    bands = len(picture.frequencies)
    shown = axis.imshow(
        image, origin="lower", aspect="auto", cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest",
        extent=(start, start + image.shape[1] * picture.column_seconds, -0.5, bands - 0.5),
    )  # fmt: skip
    ticks = [hertz for hertz in _TICKS_HZ if picture.frequencies[0] <= hertz <= picture.frequencies[-1]]
    places = np.interp(np.log(ticks), np.log(picture.frequencies), np.arange(bands))
    axis.set_yticks(places, [f"{hertz // 1000}k" if hertz >= 1000 else str(hertz) for hertz in ticks])
    axis.set_ylabel("Hz")
    axis.set_xlim(start, start + picture.seconds)
    axis.set_title(title, fontsize=9, loc="left", parse_math=False)
    return shown
