"""Models one after another: one hears a stem of those before it.

    mixture ─ htdemucs ─┬─ drums, bass, other
                        └─ vocals ─ a karaoke model ─ lead_vocals, backing_vocals

`--model htdemucs/vocals/KARAOKE` says so: a model, the stem that goes on, the model that hears it, and so on; each
model may be an ensemble (a+b). With `--model auto` the registry's presets know chains for stems that no model gives
directly, and only the stages that the outputs need are run.

What all stages give are the chain's tracks; those that nothing hears are its leaves, and the outputs where none are
named. Each stage spreads its own residual (`stems.py`), so lead and backing vocals add up to the vocals as the first
stage would write them, and the leaves to the mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from unmixcli.cache import is_cached
from unmixcli.checkpoint import licence_words
from unmixcli.download import can_download
from unmixcli.entry import ModelEntry, Preset
from unmixcli.errors import OptionError, UnmixError
from unmixcli.members import Lineup, covers_mixture, joint_licence, line_up, line_up_entries, restores
from unmixcli.options import Options
from unmixcli.progress import ProgressCallback, ignore_progress
from unmixcli.registry import Registry, load_registry, named_entries
from unmixcli.stems import MIXTURE, RESIDUAL, Output, StemPlan, plan_stems

JOINT = "/"
REST = "rest"
# The track of what the first stage leaves over of the mixture; no stem can have this name.
_LEFT_OVER = "(residual)"

# What is left over of a voice or an instrument when one of these is taken out of it.
COUNTERPARTS = {
    "lead_vocals": "backing_vocals",
    "backing_vocals": "lead_vocals",
    "male_vocals": "female_vocals",
    "female_vocals": "male_vocals",
    "dry": "reverb",
    "reverb": "dry",
    "clean": "noise",
    "noise": "clean",
}


@dataclass(frozen=True)
class Stage:
    """A model or an ensemble in its place.

    Attributes:
        lineup: the models; the outputs of its plan are tracks of the chain.
        hears: the track that goes into it; None for the first one, which hears the mixture.
        keeps: tracks of the stages before it that are still needed after it.
    """

    lineup: Lineup
    hears: str | None = None
    keeps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setup:
    """All that a separation runs, and its outputs.

    Attributes:
        entry: what the result is said to be made by.
        stages: one, unless it is a chain.
        plan: the outputs: of the only stage's estimates, or of a chain's tracks (`plan.compute`).
        warning: a sentence for the user where "auto" did something worth knowing.
    """

    entry: ModelEntry
    stages: tuple[Stage, ...]
    plan: StemPlan
    warning: str | None = None


@dataclass(frozen=True)
class _Link:
    """A stage as it was asked for."""

    entries: Sequence[ModelEntry]
    hears: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    rest: str | None = None


def set_up(options: Options, *, on_progress: ProgressCallback = ignore_progress) -> Setup:
    """Find the models that the options ask for, and decide what each computes.

    Raises:
        UnknownModelError: no such model.
        OptionError: outputs that they can't give, or options that don't fit them.
        UnmixError: nothing that is here or can be fetched gives the outputs.
    """
    if JOINT in options.model:
        return _chain(_named_links(options.model, load_registry()), options)
    asked = options.stems or options.minus
    if options.model == "auto" and asked:
        registry = load_registry()
        if registry.preset(asked, options.quality) is None:
            found = _preset_chain(registry, asked, options)
            if found is not None:
                return found
    return _alone(line_up(options, on_progress=on_progress))


def _alone(lineup: Lineup) -> Setup:
    return Setup(lineup.entry, (Stage(lineup),), lineup.plan, lineup.warning)


def _named_links(text: str, registry: Registry) -> list[_Link]:
    """The stages of "model/stem/model/stem/model"."""
    words = [word.strip() for word in text.split(JOINT)]
    if len(words) % 2 == 0 or not all(words) or "auto" in words:
        raise OptionError(
            f"model is {text!r}, expected model/stem/model: the stem of the first that the second hears.",
            hint="for example htdemucs/vocals/NAME.",
        )
    hears = [None, *(word.lower() for word in words[1::2])]
    return [_Link(named_entries(name, registry), stem) for name, stem in zip(words[::2], hears, strict=True)]


# ---------------------------------------------------------------- "auto"


def _preset_chain(registry: Registry, asked: Sequence[str], options: Options) -> Setup | None:
    """The best chain of the registry that is on this machine or can be fetched; else a model on this machine that gives
    what is asked by itself. None where there is neither kind.

    Chains come first: what tells voices or drums apart was mostly trained on these alone, and not on songs.

    Raises:
        UnmixError: there are chains, but none that can be had.
    """
    setups = [_chain(_links_of(preset, registry), options) for preset in registry.chains_for(asked, options.quality)]
    missing = _missing(setups[0]) if setups else []
    if setups and not missing:
        return setups[0]
    if setups and not options.offline and all(can_download(entry, parts) for entry, parts in missing):
        terms = " and ".join(f"{entry.name} ({licence_words(entry.licence)})" for entry, _ in missing)
        return replace(setups[0], warning=f"fetched once, with the licence of the weights: {terms}.")
    other = next((setup for setup in setups[1:] if not _missing(setup)), None) or _present_model(
        registry, asked, options
    )
    if not setups:
        return other
    why = "no network may be used" if options.offline else "could not be reached"
    names = " and ".join(entry.name for entry, _ in missing)
    if other is not None:
        said = f"{names} is not on this machine and {why}; used instead: {other.entry.name}."
        return replace(other, warning=said)
    commands = "` and `".join(f"unmix models download {entry.name}" for entry, _ in missing)
    raise UnmixError(
        f"{', '.join(asked)} takes {setups[0].entry.title}, but {names} is not on this machine and {why}.",
        hint=f"`{commands}` when there is a network, or name models with `--model`.",
    )


def _present_model(registry: Registry, asked: Sequence[str], options: Options) -> Setup | None:
    """A model on this machine that no preset names, but that gives what is asked by itself."""
    for entry in registry.entries:
        if entry.files and all(stem in entry.stems for stem in asked) and is_cached(entry, entry.parts):
            return _alone(line_up_entries([entry], options))
    return None


def _missing(setup: Setup) -> list[tuple[ModelEntry, tuple[str, ...]]]:
    """Entries, with the parts that are needed and not on this machine."""
    members = [member for stage in setup.stages for member in stage.lineup.members]
    return [(member.entry, member.parts) for member in members if not is_cached(member.entry, member.parts)]


def _links_of(preset: Preset, registry: Registry) -> list[_Link]:
    first = registry.get(preset.model)
    first = replace(first, config={**first.config, **preset.overrides})
    steps = [_Link([registry.get(step.model)], step.stem, step.names, step.rest) for step in preset.then]
    return [_Link([first]), *steps]


# ---------------------------------------------------------------- tracks and outputs


@dataclass
class _Tracks:
    """Every track of a chain: which stage gives it, and as what (a stem of its own, or what it leaves over)."""

    origin: dict[str, tuple[int, str]] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)

    @property
    def leaves(self) -> tuple[str, ...]:
        return tuple(name for name in self.origin if name not in self.heard)

    def of(self, stage: int) -> dict[str, str]:
        """Track -> stem, of one stage."""
        return {name: stem for name, (number, stem) in self.origin.items() if number == stage}


def _chain(links: Sequence[_Link], options: Options) -> Setup:
    tracks, covered = _tracks_of(links, options)
    outputs = _outputs(tracks, covered, options)
    needed = {source for output in outputs for source in output.weights} - {MIXTURE, _LEFT_OVER}
    stages: list[Stage] = []
    # From the last to the first: what a stage must give is what the outputs and the stages after it want.
    for number in range(len(links) - 1, -1, -1):
        own = tracks.of(number)
        if number and not needed & set(own):
            continue
        kept = tuple(name for name in tracks.origin if name in needed and name not in own)
        kept += (_LEFT_OVER,) if number and options.residual == "file" else ()
        wanted = {name: stem for name, stem in own.items() if name in needed}
        stages.insert(
            0, _stage(links[number], number, wanted, tracks, _own_options(options, links[number].entries, links), kept)
        )
        needed = (needed - set(own)) | ({links[number].hears or ""} if number else set())
    if len(stages) == 1:
        entries = links[0].entries
        return _alone(line_up_entries(entries, _own_options(options, entries, links)))
    compute = tuple(name for name in (*tracks.origin, _LEFT_OVER) if any(name in out.weights for out in outputs))
    note = stages[0].lineup.plan.note
    return Setup(_described(links, stages, options), tuple(stages), StemPlan(compute, outputs, False, note))


def _tracks_of(links: Sequence[_Link], options: Options) -> tuple[_Tracks, bool]:
    """The tracks, and whether the first stage's cover the mixture."""
    tracks, covered = _Tracks(), True
    for number, link in enumerate(links):
        plain = replace(_own_options(options, link.entries, links), stems=(), minus=(), residual="spread")
        whole = line_up_entries(link.entries, plain)
        stems, covers = whole.entry.stems, covers_mixture(whole.entry) or restores(link.entries)
        if link.hears is None:
            tracks.origin.update((stem, (0, stem)) for stem in stems)
            covered = covers
            continue
        if link.hears not in tracks.origin:
            raise OptionError(
                f"{whole.entry.name} shall hear {link.hears!r}, but before it there are {', '.join(tracks.origin)}."
            )
        if link.hears in tracks.heard:
            raise OptionError(f"two models shall hear {link.hears}; join them with + to combine them.")
        names = {stem: _track_name(stem, link, stems, tracks) for stem in stems}
        if not covers and REST not in stems:
            other = COUNTERPARTS.get(names[stems[0]]) if len(stems) == 1 else None
            names[REST] = link.rest or (f"{link.hears}_{REST}" if other is None or other in tracks.origin else other)
        tracks.heard.append(link.hears)
        tracks.origin.update((name, (number, stem)) for stem, name in names.items())
    return tracks, covered


def _track_name(stem: str, link: _Link, stems: Sequence[str], tracks: _Tracks) -> str:
    """A stem's name in the chain: as it is, unless that says something else there or is taken."""
    if stem in link.names:
        return link.names[stem]
    name = stem
    if stem.startswith("no_") and stem[3:] in stems:
        name = COUNTERPARTS.get(stem[3:], stem)
    return f"{link.hears}_{name}" if name in tracks.origin else name


def _outputs(tracks: _Tracks, covered: bool, options: Options) -> tuple[Output, ...]:
    every = tuple(tracks.origin)
    asked = options.stems or (() if options.minus else tracks.leaves)
    # What the first stage's models leave over of the mixture has no track of its own.
    left_over = {MIXTURE: 1.0, **dict.fromkeys(tracks.of(0), -1.0)}
    special = [] if options.minus else [name for name in asked if name in (REST, RESIDUAL) and name not in every]
    plain = tuple(name for name in asked if name not in special)
    outputs: dict[str, Output] = {}
    if plain or options.minus:
        plan = plan_stems(every, covers_mixture=True, stems=plain, minus=options.minus, residual="ignore")
        outputs = {output.name: output for output in plan.outputs}
    outputs.update((name, Output(name, left_over)) for name in special)
    if not (options.stems or options.minus or covered):
        name = "accompaniment" if tuple(tracks.of(0)) == ("vocals",) else REST
        outputs.setdefault(name, Output(name, left_over))
    if options.residual == "file":
        outputs[RESIDUAL] = Output(RESIDUAL, {_LEFT_OVER: 1.0})
    named = options.stems or tuple(outputs)
    return tuple(outputs[name] for name in dict.fromkeys((*named, *outputs)))


def _stage(
    link: _Link, number: int, own: Mapping[str, str], tracks: _Tracks, options: Options, keeps: tuple[str, ...]
) -> Stage:
    """A stage that gives these tracks (track -> stem)."""
    plain = replace(
        options,
        stems=tuple(own.values()),
        minus=(),
        residual=_own_residual(number, tracks, options),
    )
    lineup = line_up_entries(link.entries, plain)
    called = {RESIDUAL: _LEFT_OVER, **{stem: name for name, stem in own.items()}}
    renamed = [replace(output, name=called.get(output.name, output.name)) for output in lineup.plan.outputs]
    return Stage(replace(lineup, plan=replace(lineup.plan, outputs=tuple(renamed))), link.hears, keeps)


def _own_residual(number: int, tracks: _Tracks, options: Options) -> str:
    """Each stage spreads what it leaves over, unless that is to go elsewhere."""
    if options.residual == "ignore" or (options.residual == "file" and number == 0):
        return options.residual
    if not options.residual.startswith("add:"):
        return "spread"
    target = options.residual.removeprefix("add:")
    if target not in tracks.origin:
        raise OptionError(f"residual is {options.residual!r}, but the stems are {', '.join(tracks.origin)}.")
    stage, stem = tracks.origin[target]
    return f"add:{stem}" if stage == number and stem != REST else "spread"


def _own_options(options: Options, entries: Sequence[ModelEntry], links: Sequence[_Link]) -> Options:
    """The options of one stage: weights are for the ensemble among them, iterations for filters inside models."""
    several = len(entries) > 1
    if options.weights and sum(len(link.entries) > 1 for link in links) > 1:
        raise OptionError("weights can't be told apart where a chain has two ensembles.")
    inside = any("niter" in entry.config for entry in entries)
    keep_weights = several or not any(len(link.entries) > 1 for link in links)
    keep_iterations = inside or options.postfilter != "none"
    keep_iterations = keep_iterations or not any("niter" in e.config for link in links for e in link.entries)
    return replace(
        options,
        weights=options.weights if keep_weights else (),
        iterations=options.iterations if keep_iterations else None,
    )


def _described(links: Sequence[_Link], stages: Sequence[Stage], options: Options) -> ModelEntry:
    """A chain as an entry: for names, tags, the record of finished work."""
    entries = [stage.lineup.entry for stage in stages]
    words = [entries[0].name]
    titles = [entries[0].name]
    for stage, entry in zip(stages[1:], entries[1:], strict=True):
        words += [stage.hears or "", entry.name]
        titles.append(f"{entry.name} on its {stage.hears}")
    first = entries[0]
    config = [
        {
            "model": entry.name,
            "architecture": entry.architecture,
            "config": dict(entry.config),
            "hears": stage.hears,
            "gives": list(stage.lineup.plan.names),
        }
        for stage, entry in zip(stages, entries, strict=True)
    ]
    return ModelEntry(
        name=JOINT.join(words),
        title=" and ".join(titles),
        architecture="chain",
        config={"stages": config},
        stems=tuple(name for stage in stages for name in stage.lineup.plan.names),
        sample_rate=first.sample_rate,
        channels=first.channels,
        files=tuple(replace(file, part=f"{entry.name}.{file.part}") for entry in entries for file in entry.files),
        licence=joint_licence([entry.licence for entry in entries]),
        covers_mixture=False,
    )


__all__ = ["Setup", "Stage", "set_up"]
