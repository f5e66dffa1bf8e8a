"""Reading through libsndfile: WAV and its kin, AIFF, FLAC, Ogg Vorbis, AU, CAF."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soundfile
from numpy.typing import NDArray

from unmixcli.audio.channels import VORBIS_ORDER
from unmixcli.audio.content import AGAIN, Content
from unmixcli.audio.content_ogg import last_page_start
from unmixcli.audio.info import AudioInfo, sndfile_path
from unmixcli.errors import InputError

Samples = NDArray[np.float32]

_SAMPLE_TYPES = {
    "PCM_U8": "u8",
    "PCM_S8": "s8",
    "PCM_16": "s16",
    "PCM_24": "s24",
    "PCM_32": "s32",
    "FLOAT": "f32",
    "DOUBLE": "f64",
    "ALAC_16": "s16",
    "ALAC_20": "s24",
    "ALAC_24": "s24",
    "ALAC_32": "s32",
}
_LOSSY_F32 = {"VORBIS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"}
_FORMATS = {"WAV": "wav", "WAVEX": "wav", "RF64": "wav", "AIFF": "aiff", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3"}

# Samples before the place that is sought at which the search aims in turn: a page holds about 15,000.
_VORBIS_LEADS = (4096, 24000, 80000)
# Samples that are compared.
_VORBIS_PROBE = 4096
# libsndfile's mark for a length that is not known.
_UNKNOWN_FRAMES = 2**62


class SndfileReader:
    """One open file; `info`, then `blocks` once.

    Raises:
        InputError: libsndfile does not know the format (`unknown` is then true) or the file is damaged.
    """

    def __init__(self, path: str, content: Content) -> None:
        self._path = path
        try:
            self._file = soundfile.SoundFile(sndfile_path(path))
        except soundfile.LibsndfileError as error:
            raise InputError(f"{path}: can't be decoded: {error.error_string}", hint=AGAIN) from error
        subtype = str(self._file.subtype)
        channels = int(self._file.channels)
        frames: int | None = int(self._file.frames)
        unknown = frames is not None and (frames >= _UNKNOWN_FRAMES or (content.kind == "flac" and frames == 0))
        if unknown:
            frames = None  # a FLAC written into a pipe states 0
        lossless = _SAMPLE_TYPES.get(subtype)
        layout = content.channel_layout
        self._order: tuple[int, ...] | None = None
        if subtype == "VORBIS" and channels in VORBIS_ORDER:
            self._order, layout = VORBIS_ORDER[channels]
        kind = _FORMATS.get(str(self._file.format), str(self._file.format).lower())
        rate = int(self._file.samplerate)
        self.info = AudioInfo(
            path=path,
            sample_rate=rate,
            channels=channels,
            frames=frames,
            duration=None if frames is None else frames / rate,
            sample_type=lossless or ("f32" if subtype in _LOSSY_F32 else "s16"),
            lossy=lossless is None,
            format=kind,
            codec="flac" if kind == "flac" else subtype.lower(),
            channel_layout=layout,
            notes=content.notes,
        )

    def blocks(self, block_frames: int) -> Iterator[Samples]:
        """Yield [C, T]; a codec error is an InputError."""
        while True:
            try:
                data = self._file.read(block_frames, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise InputError(f"{self._path}: damaged audio data: {error.error_string}", hint=AGAIN) from error
            if len(data) == 0:
                return
            block = data.T if self._order is None else data.T[list(self._order)]
            yield np.ascontiguousarray(block)

    def seek(self, start: int) -> bool:
        """Let `blocks` begin at sample `start`; False where that can't be done exactly, and they begin at 0."""
        if self.info.frames is None:
            return False
        start = min(start, self.info.frames)
        try:
            if str(self._file.subtype) != "VORBIS":
                self._file.seek(start)
            elif not self._seek_vorbis(start):
                self._file.seek(0)
                return False
        except soundfile.LibsndfileError as error:
            raise InputError(f"{self._path}: can't be sought in: {error.error_string}", hint=AGAIN) from error
        return True

    def _seek_vorbis(self, start: int) -> bool:
        """Seek in Ogg Vorbis, where about one place in a hundred comes out some hundred samples off.

        libvorbis takes a wrong length for the first packet after some pages, and counts the last page from its end,
        which may be cut off. So the search never aims at the last page, and two different ways to the place must agree
        in what they find there.
        """
        latest = min(start, last_page_start(self._file.name))
        found: list[Samples] = []
        for lead in _VORBIS_LEADS:
            aim = latest - lead
            if aim <= 0:
                return False
            self._go(aim, start)
            piece: Samples = self._file.read(_VORBIS_PROBE, dtype="float32", always_2d=True)
            # Silence agrees with any silence: then the longest way, over the most sound, has the last word.
            if any(np.array_equal(piece, other) for other in found) and (piece.any() or lead == _VORBIS_LEADS[-1]):
                self._go(aim, start)
                return True
            found.append(piece)
        return False

    def _go(self, aim: int, start: int) -> None:
        """Seek to `aim` and read on to `start`."""
        self._file.seek(aim)
        self._file.read(start - aim, dtype="float32")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
