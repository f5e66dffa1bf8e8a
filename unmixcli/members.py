"""Which models a separation runs, what each of them computes, and what the result is called.

`--model a` is one model, `--model a+b` an ensemble: its stems are those of both, each combined of the members that
give it (`ensemble.py`), and only members that an output listens to are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unmixcli.checkpoint import choose_model, load_model
from unmixcli.ensemble import Casting, Combination, Voice, cast_voices
from unmixcli.entry import Licence, ModelEntry
from unmixcli.errors import OptionError
from unmixcli.models import architecture_class
from unmixcli.models.base import SeparationModel
from unmixcli.options import Options
from unmixcli.progress import ProgressCallback, ignore_progress
from unmixcli.registry import JOINT, load_registry, named_entries
from unmixcli.stems import StemPlan, plan_stems


@dataclass(frozen=True)
class Member:
    """One model and what it has to compute.

    Attributes:
        entry: of the registry.
        stems: those to compute.
        overrides: of the entry's config.
    """

    entry: ModelEntry
    stems: tuple[str, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the entry's files that are needed."""
        return _parts(self.entry, self.overrides, self.stems)

    def load(self, *, offline: bool, on_progress: ProgressCallback = ignore_progress) -> SeparationModel:
        """The model with its weights, fetched where they are missing; see `load_model`."""
        return load_model(
            self.entry, stems=self.stems, overrides=self.overrides, offline=offline, on_progress=on_progress
        )


@dataclass(frozen=True)
class Lineup:
    """The models of a separation, and its outputs.

    Attributes:
        entry: what the result is said to be made by: the model's entry, or one that describes the ensemble.
        members: the models that are run.
        combination: how their estimates become the stems of `plan.compute`; None for one model.
        plan: the outputs.
        warning: a sentence for the user where "auto" did something worth knowing.
    """

    entry: ModelEntry
    members: tuple[Member, ...]
    combination: Combination | None
    plan: StemPlan
    warning: str | None = None


def line_up(options: Options, *, on_progress: ProgressCallback = ignore_progress) -> Lineup:
    """Find the models that the options name and decide what each computes.

    Raises:
        UnknownModelError: no such model.
        OptionError: a stem that they can't give, or weights that don't fit.
    """
    registry = load_registry()
    if options.model != "auto":
        return line_up_entries(named_entries(options.model, registry), options)
    entry, warning = choose_model(
        "auto",
        options.stems or options.minus,
        options.quality,
        options.offline,
        on_progress=on_progress,
        registry=registry,
    )
    return replace(line_up_entries([entry], options), warning=warning)


def line_up_entries(entries: Sequence[ModelEntry], options: Options) -> Lineup:
    """Decide what each of these models computes; `options.model` doesn't matter.

    Raises:
        OptionError: a stem that they can't give, weights that don't fit, or labels that they don't know.
    """
    if options.labels:
        entries = [_labelled(entry, options.labels) for entry in entries]
        if not options.minus:  # what is said to play is what is wanted
            options = replace(options, stems=options.stems or options.labels)
    _check_restoring(entries, options)
    if len(entries) > 1:
        return _ensemble(entries, options)
    if options.weights:
        raise OptionError(
            f"there are weights, but {entries[0].name} is one model.", hint="--model a+b combines several models."
        )
    return _single(entries[0], options)


def restores(entries: Sequence[ModelEntry]) -> bool:
    """Models that give what they hear, repaired: they leave over nothing that anybody wants to hear."""
    return all(architecture_class(entry.architecture).restores for entry in entries)


def _check_restoring(entries: Sequence[ModelEntry], options: Options) -> None:
    restoring = [entry for entry in entries if restores([entry])]
    if restoring and len(restoring) < len(entries):
        name, stem = restoring[0].name, restoring[0].stems[0]
        others = "+".join(entry.name for entry in entries if entry not in restoring)
        raise OptionError(
            f"{name} restores what it hears and the others separate it, so there is nothing to combine.",
            hint=f"--model {name}/{stem}/{others} restores first and separates then.",
        )
    if restoring and options.postfilter != "none":
        raise OptionError(
            f"postfilter is {options.postfilter!r}, but {restoring[0].name} restores what it hears: a filter of the "
            "damaged mixture would undo that.",
            hint="leave --postfilter out.",
        )


def _labelled(entry: ModelEntry, labels: Sequence[str]) -> ModelEntry:
    """An entry whose model is told which instruments play."""
    config = {"source_names": entry.stems, **entry.config}
    known = architecture_class(entry.architecture).known_labels(config)
    if not known:
        raise OptionError(
            f"labels are {', '.join(labels)}, but {entry.name} can't be told what plays.", hint="leave --labels out."
        )
    if unknown := [label for label in labels if label not in known]:
        raise OptionError(
            f"{entry.name} knows no {', '.join(unknown)}; the instruments that it knows: {', '.join(known)}."
        )
    return replace(entry, config={**entry.config, "labels": list(labels)})


def _single(entry: ModelEntry, options: Options) -> Lineup:
    overrides = _overrides([entry], options)[0]

    def cost(stems: Sequence[str]) -> set[str]:
        return set(_parts(entry, overrides, stems))

    def plan(all_for_free: bool) -> StemPlan:
        return _plan(entry.stems, covers_mixture(entry), options, all_for_free, rest=not restores([entry]))

    first = plan(False)
    final = plan(cost(first.compute) == cost(entry.stems))
    return Lineup(entry, (Member(entry, final.compute, overrides),), None, final)


def _ensemble(entries: Sequence[ModelEntry], options: Options) -> Lineup:
    voices = [Voice(entry.name, entry.stems, covers_mixture(entry)) for entry in entries]
    casting = cast_voices(voices, options.weights, options.combine)
    overrides = _overrides(entries, options)

    def members(stems: Sequence[str]) -> dict[int, Member]:
        heard = {number: casting.heard(number, stems) for number in range(len(entries))}
        return {number: Member(entries[number], own, overrides[number]) for number, own in heard.items() if own}

    def cost(stems: Sequence[str]) -> set[tuple[str, tuple[str, ...]]]:
        return {(member.entry.name, member.parts) for member in members(stems).values()}

    def plan(all_for_free: bool) -> StemPlan:
        return _plan(casting.stems, casting.covers_mixture, options, all_for_free, rest=not restores(entries))

    first = plan(False)
    final = plan(cost(first.compute) == cost(casting.stems))
    run = members(final.compute)
    combination = Combination.of(casting, final.compute, options.combine, list(run))
    return Lineup(_described(entries, casting, options), tuple(run.values()), combination, final)


def _described(entries: Sequence[ModelEntry], casting: Casting, options: Options) -> ModelEntry:
    """An ensemble as an entry: for names, tags, the record of finished work."""
    names = [entry.name for entry in entries]
    how = {"avg": "averaged", "median": "median"}.get(options.combine, options.combine)
    members = {entry.name: {"architecture": entry.architecture, "config": dict(entry.config)} for entry in entries}
    weights = {stem: list(row) for stem, row in casting.weights.items()}
    return ModelEntry(
        name=JOINT.join(names),
        title=f"{' and '.join(names)}, {how}",
        architecture="ensemble",
        config={"members": members, "weights": weights, "combine": options.combine},
        stems=casting.stems,
        sample_rate=max(entry.sample_rate for entry in entries),
        channels=max(entry.channels for entry in entries),
        files=tuple(replace(file, part=f"{entry.name}.{file.part}") for entry in entries for file in entry.files),
        licence=joint_licence([entry.licence for entry in entries]),
        covers_mixture=casting.covers_mixture,
    )


def joint_licence(licences: Sequence[Licence]) -> Licence:
    """The terms of all of them together: what one forbids is forbidden."""
    words = [licence.commercial_ok for licence in licences]
    commercial = False if False in words else None if None in words else True
    return Licence(" and ".join(dict.fromkeys(licence.name for licence in licences)), commercial_ok=commercial)


def covers_mixture(entry: ModelEntry) -> bool:
    """The stems of a model are meant to add up to what it hears."""
    if entry.covers_mixture is not None:
        return entry.covers_mixture
    return architecture_class(entry.architecture).covers_mixture and len(entry.stems) > 1


def _parts(entry: ModelEntry, overrides: Mapping[str, Any], stems: Sequence[str]) -> tuple[str, ...]:
    kind = architecture_class(entry.architecture)
    return tuple(kind.parts_needed({**entry.config, **overrides}, entry.parts, stems)) if entry.files else ()


def _plan(stems: Sequence[str], covers_mixture: bool, options: Options, all_for_free: bool, *, rest: bool) -> StemPlan:
    # What the residual model of a post-filter took out of the stems is not spread over them again.
    removed = options.postfilter != "none" and options.residual_model and options.residual == "spread"
    return plan_stems(
        stems,
        covers_mixture=covers_mixture,
        stems=options.stems,
        minus=options.minus,
        residual="ignore" if removed else options.residual,
        all_for_free=all_for_free or options.postfilter != "none",
        rest=rest,
    )


def _overrides(entries: Sequence[ModelEntry], options: Options) -> list[dict[str, Any]]:
    """Options that change the models themselves, for each of them."""
    if options.iterations is None or options.postfilter != "none":
        return [{} for _ in entries]
    if not any("niter" in entry.config for entry in entries):
        names = " and ".join(entry.name for entry in entries)
        raise OptionError(
            f"iterations is {options.iterations}, but {names} has no filter of its own.",
            hint="choose a post-filter as well: --postfilter wiener.",
        )
    return [{"niter": options.iterations} if "niter" in entry.config else {} for entry in entries]
