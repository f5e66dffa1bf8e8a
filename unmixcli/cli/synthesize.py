"""`unmix synthesize`: render synthetic multitracks to train on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from unmixcli.cli import _terminal

if TYPE_CHECKING:
    from unmixcli.progress import Progress


@click.command()
@click.option("--data", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="The material: sources/, midi/, samples/, train/, each part optional.")  # fmt: skip
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="One folder per track is written here.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=200.0, show_default=True, metavar="N",
              help="Length of the whole set.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Another seed gives another set; the same gives the same sound.")  # fmt: skip
@click.option("-j", "--jobs", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Tracks rendered at the same time, one process each (about 1 GB).")  # fmt: skip
@click.option("--validation-share", type=click.FloatRange(0.0, 0.5), default=0.1, show_default=True, metavar="X",
              help="This part of speakers, kits, songs and tracks is kept apart; 0: train on all.")  # fmt: skip
@click.option("--length", nargs=2, type=click.FloatRange(4.0, 600.0), default=(60.0, 120.0), show_default=True,
              metavar="MIN MAX", help="Seconds of the shortest and the longest track.")  # fmt: skip
@click.option("--sound-font", default="auto", show_default=True, metavar="FILE",
              help="A General MIDI .sf2; auto: the one Debian installs; none: the built-in synthesizer.")  # fmt: skip
@_terminal.verbosity_options
def synthesize(
    data: Path, out: Path, minutes: float, seed: int, jobs: int, validation_share: float,
    length: tuple[float, float], sound_font: str,
) -> None:  # fmt: skip
    """Render multitracks to train on: songs, bands, voices and mixes that chance puts together.

    Every track is a folder with vocals.flac, drums.flac, bass.flac, other.flac (a missing one is silence) and
    track.json: its split, what it was made of, with licences and credits. Run it again to go on after a stop.

    \b
        unmix synthesize --data material/ --out synthetic/ --minutes 200 --jobs 2
    """
    from unmixcli.training.synthesis import SynthesisOptions, synthesize

    options = SynthesisOptions(
        data=data,
        out=out,
        minutes=minutes,
        seed=seed,
        jobs=jobs,
        validation_share=validation_share,
        shortest=length[0],
        longest=length[1],
        sound_font=sound_font,
    )
    summary = synthesize(options, on_progress=_told)
    _terminal.note(
        f"{len(summary.tracks)} tracks, {summary.seconds / 60:.1f} minutes, {summary.rendered} of them new, in {out}"
    )


def _told(event: Progress) -> None:
    share = 100.0 * event.done / event.total if event.total else 100.0
    _terminal.note(f"{event.subject}  {event.done / 60:6.1f} min  {share:3.0f} %")
