"""`unmix models`: what models there are, and their files on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from unmixcli.entry import ModelEntry
    from unmixcli.registry import Registry


@click.group()
def models() -> None:
    """List, fetch, check, add and remove models."""


def _registry() -> Registry:
    from unmixcli.registry import load_registry

    return load_registry()


def _entries(names: Sequence[str]) -> list[ModelEntry]:
    registry = _registry()
    return [registry.get(name) for name in names]


# --- list

_SORT_KEYS: Mapping[str, Callable[[ModelEntry], Any]] = {
    "name": lambda entry: entry.name,
    "size": lambda entry: (entry.size is None, entry.size or 0, entry.parameters or 0, entry.name),
    "parameters": lambda entry: (entry.parameters is None, entry.parameters or 0, entry.name),
    "year": lambda entry: (-(entry.paper.year if entry.paper else 0), entry.name),
    "architecture": lambda entry: (entry.architecture, entry.name),
    "licence": lambda entry: (entry.licence.name, entry.name),
}


@models.command("list")
@click.option("--stem", "stems", multiple=True, metavar="NAME", help="Only models that give this stem (repeatable).")
@click.option("--architecture", metavar="NAME", help="Only models of this architecture.")
@click.option("--licence", metavar="TEXT", help="Only models with this in the name of their licence.")
@click.option("--commercial-ok", is_flag=True, help="Only models whose licence allows commercial use.")
@click.option("--max-size", metavar="SIZE", help="Only models of at most so many bytes: 500MB, 1GB.")
@click.option("--installed", is_flag=True, help="Only models that are complete on this machine.")
@click.option("--sort", type=click.Choice(["registry", *_SORT_KEYS, "score"]), default="registry", show_default=True,
              help="Order of the list.")  # fmt: skip
@click.option("--protocol", metavar="TEXT", help="With --sort score: whose scores, by a part of the protocol's name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(
    stems: tuple[str, ...], architecture: str | None, licence: str | None, commercial_ok: bool, max_size: str | None,
    installed: bool, sort: str, protocol: str | None, as_json: bool,
) -> None:  # fmt: skip
    """List the models, with the stems they give and what their licence allows.

    Most scores were measured in different ways, so they are shown for one --protocol only (--sort score), as the mean
    of the stems asked for, or of vocals, drums, bass and other; `unmix models info NAME` has all of a model.
    """
    from unmixcli.registry_query import FOUR_STEMS, by_score, find_entries, parse_size, protocol_named

    if (sort == "score") is not (protocol is not None):
        raise click.UsageError("--sort score and --protocol TEXT go together: scores of two protocols don't compare.")
    registry = _registry()
    wanted = [stem.lower() for stem in stems]
    entries = find_entries(
        registry.entries,
        stems=wanted,
        architecture=architecture,
        licence=licence,
        commercial_ok=commercial_ok,
        max_bytes=parse_size(max_size) if max_size else None,
        installed=installed,
    )
    scores: dict[str, float] = {}
    if protocol is not None:
        protocol = protocol_named(registry.entries, protocol)
        ranked = by_score(entries, protocol, wanted or FOUR_STEMS)
        entries, scores = [entry for entry, _ in ranked], {entry.name: score for entry, score in ranked}
        click.echo(f"mean of {', '.join(wanted or FOUR_STEMS)}; {protocol}", err=True)
    elif sort != "registry":
        entries.sort(key=_SORT_KEYS[sort])
    if as_json:
        values = [_as_json(entry) | ({"score": scores[entry.name]} if scores else {}) for entry in entries]
        click.echo(json.dumps(values, indent=2, ensure_ascii=False))
        return
    _print_table(("NAME", *(("DB",) if protocol else ()), *_HEAD), [_row(entry, scores) for entry in entries])
    if not entries:
        click.echo("no model is like that.", err=True)
    recommended = registry.recommended(wanted)
    if any(entry.name == recommended for entry in entries):
        click.echo(f"recommended: {recommended}", err=True)


_HEAD = ("STEMS", "SIZE", "HERE", "COMMERCIAL USE", "LICENCE", "ARCHITECTURE")


def _row(entry: ModelEntry, scores: Mapping[str, float]) -> tuple[str, ...]:
    return (
        entry.name,
        *((f"{scores[entry.name]:.2f}",) if scores else ()),
        ", ".join(entry.stems),
        _size_text(entry),
        _here(entry),
        _commercial(entry),
        _licence_text(entry),
        entry.architecture,
    )


def _licence_text(entry: ModelEntry) -> str:
    """A licence in few words: its identifier, or its name up to the first comma or bracket."""
    name = entry.licence.spdx or re.split(r" ?[(,;:]", entry.licence.name)[0]
    return name if len(name) <= 40 else f"{name[:39]}…"


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _here(entry: ModelEntry) -> str:
    from unmixcli.cache import find_file

    if all(file.package for file in entry.files):
        return "built in"
    count = sum(find_file(entry, file) is not None for file in entry.files)
    return "yes" if count == len(entry.files) else "no" if count == 0 else f"{count} of {len(entry.files)}"


def _commercial(entry: ModelEntry) -> str:
    return {True: "yes", False: "no", None: "unclear"}[entry.licence.commercial_ok]


def _size_text(entry: ModelEntry) -> str:
    if not entry.files:
        return "-"
    if entry.size is not None:
        return _bytes_text(entry.size)
    # Published checkpoints are float32: four bytes a parameter, when nobody states the size.
    return f"~{_bytes_text(4 * entry.parameters)}" if entry.parameters else "unknown"


def _bytes_text(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 99.95e6 else f"{count / 1e6:.0f} MB"


def _as_json(entry: ModelEntry) -> dict[str, Any]:
    here = _here(entry)
    return {**entry.as_json(), "installed": here in ("yes", "built in"), "here": here, "bundled": entry.bundled}


# --- info


@models.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(name: str, as_json: bool) -> None:
    """Say everything that is known about a model: files, licence, training data, paper, scores."""
    from unmixcli.cache import file_path, find_file

    registry = _registry()
    entry = registry.get(name)
    if as_json:
        click.echo(json.dumps(_as_json(entry), indent=2, ensure_ascii=False))
        return
    licence = entry.licence
    lines = [
        f"{entry.name}: {entry.title}",
        _field("also called", ", ".join(entry.aliases)),
        _field("stems", ", ".join(entry.stems)),
        _field("works at", f"{entry.sample_rate} Hz, {entry.channels} channel{'s' * (entry.channels > 1)}"),
        _field("architecture", entry.architecture),
        _field("parameters", f"{entry.parameters:,}" if entry.parameters else ""),
        _field("settings", ", ".join(f"{key} {json.dumps(value)}" for key, value in entry.config.items())),
        _field("licence", f"{licence.name}; commercial use: {_commercial(entry)}"),
        _field("says", licence.source),
        _field("trained on", entry.training_data),
    ]
    if entry.paper:
        lines.append(_field("paper", f"{entry.paper.title}, {entry.paper.year}, {entry.paper.url}"))
    uses = dict.fromkeys(
        f"--quality {p.quality} for {', '.join(p.stems)}" for p in registry.presets if p.model == entry.name
    )
    lines += [_field("preset", use) for use in uses]
    for score in entry.scores:
        values = ", ".join(f"{stem} {value:.2f} dB" for stem, value in score.values.items())
        lines += [_field("score", values), _field("measured", score.protocol), _field("source", score.source)]
    for file in entry.files:
        size = f"{file.size:,} bytes" if file.size else "size not published"
        lines.append(_field("file", f"{file.name} ({file.part}), {size}"))
        for kind, value in file.hashes.items():
            short = kind == "sha256" and not file.sha256
            lines.append(_field(f"  {kind}", value + "… (only these digits are published)" * short))
        lines.append(_field("  doubt", file.doubt))
        lines += [_field("  from", url) for url in file.urls]
        found = find_file(entry, file)
        lines.append(_field("  here", str(found.path) if found else f"no (would be {file_path(entry, file)})"))
    lines += [_field("note", note) for note in entry.notes]
    click.echo("\n".join(line for line in lines if line))


def _field(name: str, value: str) -> str:
    return f"  {name:<13} {value}" if value else ""


# --- files


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def download(names: tuple[str, ...]) -> None:
    """Fetch models, so that they can be used without a network.

    What an interrupted download left is continued. UNMIX_MIRROR=https://host/folder is tried before the published
    places, as https://host/folder/FILE.
    """
    from unmixcli.checkpoint import licence_words, stored_checkpoint
    from unmixcli.cli import _terminal
    from unmixcli.cli._download_bar import download_bar
    from unmixcli.download import ensure_files, is_cached
    from unmixcli.errors import UnmixError

    failed = []
    for entry in _entries(names):
        try:
            if not is_cached(entry):
                click.echo(f"{entry.name}: licence {licence_words(entry.licence)}", err=True)
            with download_bar() as show:
                paths = ensure_files(entry, entry.parts, on_progress=show)
            for part in entry.parts:
                _read_once(entry, part, stored_checkpoint)
        except UnmixError as error:
            if len(names) == 1:
                raise
            _terminal.error(str(error), error.hint)
            failed.append(entry.name)
            continue
        place = f"in {next(iter(paths.values())).parent}" if paths else "needs no files"
        click.echo(f"{entry.name}: {len(paths)} files {place}" if paths else f"{entry.name}: {place}")
    if failed:
        click.echo(f"not fetched: {', '.join(failed)}", err=True)
        click.get_current_context().exit(1)


def _read_once(entry: ModelEntry, part: str, read: Callable[..., object]) -> None:
    """Convert a checkpoint now, so that one that can't be used shows at once."""
    from unmixcli.cache import find_file

    found = find_file(entry, entry.file(part))
    if found is not None:
        read(found.path, found.sha256)


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Hash the files of models again (default: all that are on this machine).

    A damaged file of the cache is deleted, so that it is fetched anew; a file you added is kept and reported.
    The exit code is 1 if a file is damaged, or a model named is not complete.
    """
    from unmixcli.cache import check_file

    results = []
    for entry in _entries(names) if names else _registry().entries:
        for file in entry.files:
            results += [(entry.name, check) for check in check_file(entry, file) if names or check.state != "missing"]
    if as_json:
        values = [
            {"model": name, "file": c.file, "state": c.state, "detail": c.detail, "path": str(c.path)}
            for name, c in results
        ]
        click.echo(json.dumps(values, indent=2))
    else:
        for name, check in results:
            click.echo(f"{check.state:<8} {name}  {check.file}{': ' * bool(check.detail)}{check.detail}")
        if not results:
            click.echo(
                "no model with files is on this machine." if not names else "these models have no files.", err=True
            )
    if any(check.state != "ok" for _, check in results):
        click.get_current_context().exit(1)


@models.command()
@click.argument("files", nargs=-1, required=True, metavar="[PART=]FILE...")
@click.option("--name", metavar="NAME", help="Name of the new model (default: after the file).")
@click.option("--like", metavar="MODEL", help="Take architecture and settings from this model.")
@click.option("--architecture", metavar="NAME", help="What network the weights are of.")
@click.option("--config", type=click.Path(dir_okay=False), help="JSON or YAML file with the network's settings.")
@click.option("--stems", metavar="A,B", default="", help="Stems that the model gives, in order.")
@click.option("--licence", metavar="TEXT", help="Licence of the weights, to be shown.")
def add(
    files: tuple[str, ...], name: str | None, like: str | None, architecture: str | None, config: str | None,
    stems: str, licence: str | None,
) -> None:  # fmt: skip
    """Make weights files of your own a model.

    Files that the registry knows by their hashes go to the cache, as if they had been downloaded. For others say what
    they are: --like MODEL, or --architecture and --config, which also takes the YAML that is published with RoFormers,
    MDX23C and SCNet; one of the weights' own name beside them is found. Models of several files take one per part,
    named by the file name or as PART=FILE. The files are read as data, nothing in them is run, and the network must
    take every tensor, before anything is recorded.

    \b
        unmix models add cac_tdc_17_vocals_top1.pt
        unmix models add vocals.pth drums.pth bass.pth other.pth --like umxhq --name mine
        unmix models add my_roformer.ckpt --config my_roformer.yaml
    """
    from unmixcli.user_models import add_model

    wanted = [stem.strip().lower() for stem in stems.split(",") if stem.strip()]
    added = add_model(
        files, name=name, like=like, architecture=architecture, config=config, stems=wanted, licence=licence
    )
    for part, sha256 in added.sha256.items():
        click.echo(f"{part}: sha256 {sha256}", err=True)
    if added.recognised:
        click.echo(f"{added.entry.name}: known by its sha256, ready: unmix SONG --model {added.entry.name}")
    else:
        click.echo(
            f"{added.entry.name}: added, gives {', '.join(added.entry.stems)}: unmix SONG --model {added.entry.name}"
        )


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--yes", is_flag=True, help="Do not ask before weights that you added are deleted.")
def remove(names: tuple[str, ...], yes: bool) -> None:
    """Delete a model's files from this machine.

    A model of the program's own registry stays listed and can be fetched again; one that you added is gone.
    """
    from unmixcli.user_models import broken_entry, remove_model

    registry = _registry()
    own = [name for name in names if broken_entry(name) or not registry.get(name).bundled]
    if own and not yes:
        click.confirm(f"Delete {', '.join(own)} with the weights that you added?", abort=True, err=True)
    for name in names:
        removed = remove_model(name)
        for path in removed:
            click.echo(f"deleted {path}")
        if not removed:
            click.echo(f"{name}: nothing of it is on this machine.", err=True)


@models.command()
@click.argument("name", required=False)
@click.option("--user", is_flag=True, help="The folder of the models that you added.")
def path(name: str | None, user: bool) -> None:
    """Print where models lie: the cache folder, or the files of a model that are here."""
    from unmixcli.cache import find_file
    from unmixcli.paths import cache_folder, user_models_folder

    if name is None:
        click.echo(user_models_folder() if user else cache_folder() / "models")
        return
    entry = _registry().get(name)
    found = [find_file(entry, file) for file in entry.files]
    for file in found:
        if file is not None:
            click.echo(file.path)
    if None in found:
        click.echo(f"{name} is not complete on this machine.", err=True)
        click.get_current_context().exit(1)
