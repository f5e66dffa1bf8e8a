"""Families of scores: what is computed for a track, and how tracks are brought together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from unmixcli.errors import OptionError
from unmixcli.evaluation import metrics
from unmixcli.evaluation.projection import Signal

MEDIAN, MEAN, WEIGHTED = "median", "mean", "mean weighted by length"


@dataclass(frozen=True)
class Family:
    """One protocol of scoring; values of different ones are never comparable.

    Attributes:
        name: as typed.
        title: what it is.
        columns: the scores it gives, in dB.
        over_tracks: how tracks are brought together.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    over_tracks: str

    @property
    def protocol(self) -> str:
        """Title and averaging in one line."""
        return f"{self.title}, {self.over_tracks} of tracks"


_IMAGES = ("SDR", "ISR", "SIR", "SAR")

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("v4", "BSS Eval v4 (images, filters of the song, median of 1 s frames)", _IMAGES, MEDIAN),
        Family("v3", "BSS Eval v3 (sources, whole song)", ("SDR", "SIR", "SAR", "NSDR"), MEDIAN),
        Family("v3-images", "BSS Eval v3 (images, whole song)", _IMAGES, MEDIAN),
        Family("v3-frames", "BSS Eval v3 (images, filters of each frame, median of 1 s frames)", _IMAGES, MEDIAN),
        Family("gnsdr", "BSS Eval v3 (sources, whole song)", ("GNSDR", "GSIR", "GSAR"), WEIGHTED),
        Family("si-sdr", "SI-SDR (whole song)", ("SI-SDR", "SI-SDRi"), MEAN),
        Family("sdr", "plain SDR (whole song)", ("SDR", "NSDR"), MEAN),
    )
}


def choose_families(names: Sequence[str]) -> tuple[Family, ...]:
    """The families of these names, each once.

    Raises:
        OptionError: there is no such family.
    """
    chosen = dict.fromkeys(name.strip().lower() for name in names if name.strip())
    for name in chosen:
        if name not in FAMILIES:
            raise OptionError(f"there is no metric {name!r}; there are {', '.join(FAMILIES)}.")
    return tuple(FAMILIES[name] for name in chosen)


@dataclass
class Scene:
    """A track's references, prepared once for all systems.

    Attributes:
        references: the sources that share the mixture.
        stems: their names.
        mixture: [C, T].
        sample_rate: Hz.
    """

    references: metrics.References
    stems: Sequence[str]
    mixture: Signal
    sample_rate: int
    _baseline: dict[str, list[float]] = field(default_factory=dict, init=False)

    @property
    def seconds(self) -> float:
        """Length of the track."""
        return float(self.references.length / self.sample_rate)

    def baseline(self, kind: str) -> list[float]:
        """The score of the mixture itself as an estimate of each reference, whichever of "v3" SDR, "sdr", "si-sdr"."""
        if kind not in self._baseline:
            everything = list(range(len(self.stems)))
            mixtures = [self.mixture] * len(self.stems)
            if kind == "v3":
                found = [float(v) for v in self._sources(mixtures, everything).sdr[:, 0]]
            else:
                found = self._simple(kind, mixtures, everything)
            self._baseline[kind] = found
        return self._baseline[kind]

    def score(
        self, families: Sequence[Family], estimates: Sequence[Signal], targets: Sequence[int]
    ) -> dict[str, list[dict[str, float]]]:
        """Scores of estimates.

        Args:
            families: what to compute.
            estimates: E signals [C, T].
            targets: for each the index of its reference.

        Returns:
            family name -> for each estimate column -> dB; NaN where not defined.
        """
        names = {family.name for family in families}
        columns: dict[str, dict[str, list[float]]] = {}
        if names & {"v3", "gnsdr"}:
            found = self._sources(estimates, targets)
            sdr, sir, sar = ([float(v) for v in values[:, 0]] for values in (found.sdr, found.sir, found.sar))
            gain = self._gain("v3", sdr, targets)
            columns["v3"] = {"SDR": sdr, "SIR": sir, "SAR": sar, "NSDR": gain}
            columns["gnsdr"] = {"GNSDR": gain, "GSIR": sir, "GSAR": sar}
        for name in names & {"v4", "v3-images", "v3-frames"}:
            columns[name] = self._images(name, estimates, targets)
        for name, first, second in (("si-sdr", "SI-SDR", "SI-SDRi"), ("sdr", "SDR", "NSDR")):
            if name in names:
                values = self._simple(name, estimates, targets)
                columns[name] = {first: values, second: self._gain(name, values, targets)}
        return {
            family.name: [
                {column: columns[family.name][column][index] for column in family.columns}
                for index in range(len(estimates))
            ]
            for family in families
        }

    def _gain(self, kind: str, values: Sequence[float], targets: Sequence[int]) -> list[float]:
        before = self.baseline(kind)
        return [value - before[target] for value, target in zip(values, targets, strict=True)]

    def _sources(self, estimates: Sequence[Signal], targets: Sequence[int]) -> metrics.BssScores:
        return metrics.bss_eval(self.references, estimates, targets=targets, sources=True)

    def _images(self, name: str, estimates: Sequence[Signal], targets: Sequence[int]) -> dict[str, list[float]]:
        window = None if name == "v3-images" else self.sample_rate  # 1 s
        found = metrics.bss_eval(
            self.references, estimates, targets=targets, window=window, framewise_filters=name == "v3-frames"
        )
        if window is None:
            return {column: [float(v) for v in getattr(found, column.lower())[:, 0]] for column in _IMAGES}
        return {column: [metrics.median(row) for row in getattr(found, column.lower())] for column in _IMAGES}

    def _simple(self, name: str, estimates: Sequence[Signal], targets: Sequence[int]) -> list[float]:
        function: Callable[[Signal, Signal], float] = metrics.si_sdr if name == "si-sdr" else metrics.plain_sdr
        signals = self.references.signals
        return [function(signals[target], estimate) for estimate, target in zip(estimates, targets, strict=True)]
