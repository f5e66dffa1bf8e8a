"""Every knob of a separation in one frozen dataclass: the command line, the API and the pipeline share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from unmixcli.errors import OptionError

Quality = Literal["fast", "balanced", "best"]
Format = Literal["wav", "flac", "mp3", "m4a", "alac", "ogg", "opus", "aiff", "stem.mp4"]
BitDepth = Literal["16", "24", "32f"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]
PostFilter = Literal["none", "softmask", "logit", "wiener", "em"]
Clipping = Literal["scale", "clamp"]
Combine = Literal["avg", "median", "min_fft", "max_fft", "avg_fft"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "quality": get_args(Quality),
    "format": get_args(Format),
    "bit_depth": get_args(BitDepth),
    "precision": get_args(Precision),
    "postfilter": get_args(PostFilter),
    "clipping": get_args(Clipping),
    "combine": get_args(Combine),
}

# Fields that decide where and how the work runs but not what is computed: two runs that differ only in these
# give the same files, so a folder run that was stopped goes on even if they changed.
_NOT_IN_RESULT = frozenset({"jobs", "overwrite", "resume", "dry_run", "offline", "output", "batch_size"})


@dataclass(frozen=True)
class Options:
    """What to separate, how, and what to write. Defaults are the program's.

    Attributes:
        model: a registry name or alias, or "auto": the recommended model for the stems asked; several joined with "+"
            are combined stem by stem.
        quality: with model "auto", the preset to take.
        stems: stems to give; empty: all of the model's.
        minus: stems to leave out; the mixture without them is given as one stem, `no_NAME`.
        labels: instruments that play, for models that are told so: they are what is given, unless `stems` or `minus`
            says otherwise; empty: all that the model knows.
        output: folder for the results, or "-" for standard output; None: `separated` in the current folder.
        template: path of each result inside `output`; fields {track} {stem} {model} {artist} {title} {album} {ext}.
        format: container and codec; None: wav ("-" as well).
        bit_depth: of wav, flac, aiff and alac; None: as the input.
        bitrate: kbit/s of lossy formats; None: the format's default.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto" is fp32.
        segment: seconds one forward pass sees; None: the model's own.
        overlap: fraction 0 <= overlap < 1 shared by neighbouring segments; None: the model's own.
        combine: how the estimates of several models become one; see `ensemble.py`.
        weights: of several models, by their order: "2,1" for all stems, "vocals=1,3" for one; a mapping of stems to
            numbers is taken as well. Empty: all models count the same.
        tta: average over both sides and both polarities of the input; see `models/augmented.py`.
        shifts: 0, or the number of random time shifts to average.
        batch_size: segments per forward pass; 0: by device.
        start: seconds; nothing before is written. None: the beginning.
        end: seconds; nothing from there on is written. None: the end.
        postfilter: applied to the model's estimates.
        iterations: of the post-filter, or of the filter inside a model that has one; None: the published number.
        residual_model: give the post-filter one more source for what no stem explains.
        residual: "spread", "ignore", "file" or "add:STEM"; see `stems.py`.
        clipping: where a stem exceeds full scale and the format can't hold that: "scale" turns all stems of the
            track down by one common gain, "clamp" cuts the peaks.
        track: which audio track of the input, 0 is the first.
        jobs: files worked on at the same time.
        overwrite: replace results that exist.
        resume: skip files whose results are complete.
        dry_run: plan and tell, write nothing.
        offline: use no network.
        seed: of everything random.
    """

    model: str = "auto"
    quality: Quality = "balanced"
    stems: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    output: str | None = None
    template: str = "{track}/{stem}"
    format: Format | None = None
    bit_depth: BitDepth | None = None
    bitrate: int | None = None
    device: str = "auto"
    precision: Precision = "auto"
    segment: float | None = None
    overlap: float | None = None
    combine: Combine = "avg"
    weights: tuple[str, ...] = ()
    tta: bool = False
    shifts: int = 0
    batch_size: int = 0
    start: float | None = None
    end: float | None = None
    postfilter: PostFilter = "none"
    iterations: int | None = None
    residual_model: bool = False
    residual: str = "spread"
    clipping: Clipping = "scale"
    track: int = 0
    jobs: int = 1
    overwrite: bool = False
    resume: bool = True
    dry_run: bool = False
    offline: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("stems", "minus", "labels"):
            object.__setattr__(self, name, _names(getattr(self, name)))
        object.__setattr__(self, "weights", _weights(self.weights))
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise OptionError(f"{name} is {value!r}, expected one of {', '.join(choices)}.")
        _check_ranges(self)
        if self.residual not in ("spread", "ignore", "file") and not self.residual.startswith("add:"):
            raise OptionError(f"residual is {self.residual!r}, expected spread, ignore, file or add:STEM.")
        if self.stems and self.minus:
            raise OptionError("stems and minus were both given; one of them says what to write.")

    def result_fields(self) -> dict[str, Any]:
        """The options that decide what a result contains, as JSON values (for the record of finished work)."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_IN_RESULT}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All field names."""
        return tuple(field.name for field in fields(cls))


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    """Stem names from "vocals,drums" or a sequence: stripped, lower case, each once, in order."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(name for part in parts if (name := part.strip().lower())))


def _weights(value: Any) -> tuple[str, ...]:
    """Weights as texts "2,1" and "vocals=1,3", from such texts or a mapping {"vocals": (1, 3)}."""
    if isinstance(value, Mapping):
        value = [f"{stem}={','.join(f'{number:g}' for number in numbers)}" for stem, numbers in value.items()]
    elif isinstance(value, str):
        value = value.split()
    elif value and all(isinstance(number, (int, float)) for number in value):
        value = [",".join(f"{number:g}" for number in value)]
    return tuple("".join(str(text).split()).lower() for text in value)


def _check_ranges(options: Options) -> None:
    rules: list[tuple[str, bool, str]] = [
        ("segment", options.segment is None or options.segment > 0, "more than 0 seconds"),
        ("overlap", options.overlap is None or 0 <= options.overlap < 1, "at least 0 and less than 1"),
        ("shifts", options.shifts >= 0, "0 or more"),
        ("batch_size", options.batch_size >= 0, "0 (automatic) or more"),
        ("start", options.start is None or options.start >= 0, "0 seconds or more"),
        ("iterations", options.iterations is None or options.iterations >= 0, "0 or more"),
        ("bitrate", options.bitrate is None or 8 <= options.bitrate <= 1024, "8 to 1024 kbit/s"),
        ("track", options.track >= 0, "0 (the first) or more"),
        ("jobs", options.jobs >= 1, "1 or more"),
    ]
    for name, valid, expected in rules:
        if not valid:
            raise OptionError(f"{name} is {getattr(options, name)}, expected {expected}.")
    if options.end is not None and options.end <= (options.start or 0.0):
        raise OptionError(f"the end, {options.end} s, is not after the start, {options.start or 0.0} s.")
