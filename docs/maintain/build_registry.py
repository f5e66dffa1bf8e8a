"""Write the entries of published checkpoints into models_registry.json.

    python docs/maintain/build_registry.py registry_facts.json

The facts (one object per checkpoint: files with hashes and mirrors, licence, scores, each with its source) are
collected by hand and are not in the repository; short names, settings that they lack and presets are in
`registry_tables.py`. Entries written by hand are kept as they are, and where they stand; its own are those of the
facts' files, written anew each time, so that running it twice changes nothing.

An entry is written only if the architecture is in the table of architectures, the network can be built of its
settings, has as many parameters as the facts say, and fits the file's size. Everything else is listed in
`left_out.md` beside this script, with the reason. Checkpoints that the facts flag (unclear provenance) never get in.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import registry_tables as tables  # noqa: E402

from unmixcli.errors import UnmixError  # noqa: E402
from unmixcli.models import architecture_class, architectures  # noqa: E402
from unmixcli.published_config import canonical_stem, canonical_stems  # noqa: E402
from unmixcli.registry_parse import parse_entry, parse_registry  # noqa: E402

REGISTRY = ROOT / "models_registry.json"
LEFT_OUT = HERE / "left_out.md"
# Families that have hand-written entries.
BY_HAND = ("open-unmix", "tdc-unet", "demucs-v1", "demucs-v2", "demucs-v3", "demucs-v4")
# Pages, not files: nothing can be fetched there by a program.
PAGES = ("drive.google.com", "mega.nz", "disk.yandex.ru", "dropbox.com")
GONE = ("huggingface.co/jarredou/", "github.com/jarredou/")  # accounts that were deleted
BYTES = {"float32": 4, "float16": 2, None: 4}

Fact = Mapping[str, Any]


class LeftOutError(Exception):
    """This checkpoint gets no entry; the text says why."""


def main() -> None:
    """Read the facts, write registry and list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("facts", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if something would change")
    options = parser.parse_args()
    facts = merged(json.loads(options.facts.read_text(encoding="utf-8")))
    registry = json.loads(REGISTRY.read_text(encoding="utf-8"))
    entries, left_out = build(facts)
    registry = merge(registry, entries, owned=files_owned(facts))
    parse_registry(registry)
    texts = {REGISTRY: dumps(registry) + "\n", LEFT_OUT: report(left_out)}
    changed = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    print(f"{len(registry['models'])} entries, {len(entries)} of them made here; {len(left_out)} checkpoints left out")
    for path in changed:
        print(f"{'would change' if options.check else 'written'}: {path.relative_to(ROOT)}")
        if not options.check:
            path.write_text(texts[path], encoding="utf-8")
    if options.check and changed:
        raise SystemExit(1)


def merged(facts: Sequence[Fact]) -> list[Fact]:
    """One fact per file: those with the same sha256 become one, whose mirrors are those of all."""
    seen: dict[str, dict[str, Any]] = {}
    result: list[Fact] = []
    for fact in facts:
        key = fact["files"][0].get("sha256")
        if key in seen:
            first = seen[key]
            first["also"].append(fact["filename"])
            first["urls"] += [url for url in fact["urls"] if url not in first["urls"]]
            first["sdr"] += [score for score in fact["sdr"] if score not in first["sdr"]]
            first["flags"] += fact["flags"]
            continue
        copy = {**fact, "also": [], "urls": list(fact["urls"]), "sdr": list(fact["sdr"]), "flags": list(fact["flags"])}
        result.append(copy)
        if key:
            seen[key] = copy
    return result


def build(facts: Sequence[Fact]) -> tuple[list[dict[str, Any]], list[tuple[Fact, str]]]:
    """Entries, and what gets none with the reason."""
    entries, left_out = [], []
    for fact in facts:
        if fact["family"] in BY_HAND:
            continue
        try:
            entries.append(entry_of(fact))
        except LeftOutError as reason:
            left_out.append((fact, str(reason)))
    return sorted(entries, key=lambda entry: (entry["architecture"], entry["name"])), left_out


def entry_of(fact: Fact) -> dict[str, Any]:
    """A checkpoint's entry.

    Raises:
        LeftOutError: it gets none.
    """
    if flagged := [flag for flag in fact["flags"] if "DO NOT SHIP" in flag]:
        raise LeftOutError(f"provenance: {flagged[0].partition(': ')[2]}")
    if nonstandard := [flag for flag in fact["flags"] if flag.startswith("non-standard architecture")]:
        raise LeftOutError(nonstandard[0].partition(";")[0])
    architecture, config, stems, source = settings_of(fact)
    if architecture not in architectures():
        raise LeftOutError(f"no architecture {architecture} yet")
    name = tables.NAMES.get(fact["filename"]) or short_name(fact, architecture)
    files = files_of(fact, name)
    measured = measure(architecture, config, stems)
    check_size(fact, measured["parameters"])
    notes = [f"Settings: {source}." if source else ""]
    notes += [tables.MDX_NOTES.get(fact["filename"], ""), tables.VR_NOTES.get(fact["filename"], "")]
    notes += tables.NOTES.get(fact["filename"], ())
    if all(any(gone in url for gone in GONE) for url in fact["urls"]):
        notes.append("The account that published it is gone and no mirror is known; `unmix models add FILE` knows it.")
    if any(file.get("unverified") for file in files):
        notes.append("Nobody publishes a hash of the file: what arrives can't be checked.")
    entry = {
        "name": name,
        "title": title_of(fact, architecture, stems),
        "architecture": architecture,
        "config": config,
        "stems": stems,
        "sample_rate": measured["sample_rate"],
        "channels": measured["channels"],
        "files": files,
        "aliases": aliases_of(fact, name),
        "licence": licence_of(fact),
        "training_data": tables.TRAINING_DATA.get(fact["filename"], "not published"),
        "paper": tables.PAPERS.get(architecture),
        "scores": scores_of(fact, stems),
        "notes": [note for note in notes if note],
        "parameters": measured["parameters"],
    }
    entry = {key: value for key, value in entry.items() if value not in (None, [])}
    parse_entry(entry, where=name)
    return entry


# --- settings


def settings_of(fact: Fact) -> tuple[str, dict[str, Any], list[str], str]:
    """Architecture, config, stems, and where the settings were read ("" where the facts have them).

    Raises:
        LeftOutError: they are not known.
    """
    family, file, found = fact["family"], fact["filename"], fact.get("hyperparameters") or {}
    if family in ("bs-roformer", "mel-band-roformer"):
        return roformer_settings(fact, found)
    for known, architecture in ((tables.MDX23C, "mdx23c"), (tables.SCNET, "scnet"), (tables.APOLLO, "apollo")):
        if file in known:
            values, outputs, single, source = known[file]
            return with_stems(architecture, values, outputs, single, source)
    if file in tables.DEMUCS:
        architecture, values, outputs, source = tables.DEMUCS[file]
        return architecture, {**values, "sources": list(outputs)}, list(outputs), source
    if file in tables.MDX:
        return mdx_settings(file)
    if family == "uvr-vr":
        return vr_settings(fact, found)
    if file in tables.OTHERS:
        architecture, values, outputs, source = tables.OTHERS[file]
        return architecture, dict(values), list(outputs), source
    if family == "mdx-net-onnx":
        raise LeftOutError("n_fft isn't known: no source says which of UVR's hashes is this file's")
    if family in ("mdx23c", "scnet", "htdemucs"):
        raise LeftOutError("its settings are not known")
    raise LeftOutError(f"this program has no {re.split(r' [(]|[:,]', fact['architecture'])[0]}")


def with_stems(
    architecture: str, values: Mapping[str, Any], outputs: Sequence[str], single: bool, source: str
) -> tuple[str, dict[str, Any], list[str], str]:
    """Settings with the network's outputs, of which `single` ones give the first."""
    config = {**values, "instruments": list(outputs)}
    if single:
        config["target_instrument"] = outputs[0]
    return architecture, config, list(outputs[:1]) if single else list(outputs), source


def roformer_settings(fact: Fact, found: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[str], str]:
    """Of both RoFormers."""
    architecture = fact["family"].replace("-", "_")
    file, source = fact["filename"], ""
    if any(page in url for url in fact["urls"] for page in PAGES):
        raise LeftOutError("it is on a page for people, there is no file to fetch; no hash is known")
    if file in tables.ROFORMERS:
        values, outputs, single, source = tables.ROFORMERS[file]
        values = dict(values)
    elif found.get("use_pope") or found.get("mask_estimator"):
        raise LeftOutError("its network is a variant that this program has not")
    elif found and fact["stems"]:
        wide = found["band_config"].get("stft_n_fft", 2048) if "band_config" in found else 2048
        values = {"dim": found["dim"], "depth": found["depth"]}
        values["mask_estimator_depth"] = found.get("yaml_mask_estimator_depth", 2)
        values |= {key: found[key] for key in ("mlp_expansion_factor", "skip_connection") if key in found}
        if wide != 2048:
            values |= {"stft_n_fft": wide, "stft_win_length": wide}
        values["stft_hop_length"] = found.get("stft_hop_length", 512)  # the published default
        values["chunk_size"] = found["chunk_size"]
        outputs = tables.OUTPUTS.get(file) or tuple(canonical_stems(fact["stems"]))
        single = len(outputs) == 1
        if single:
            outputs = (outputs[0], tables.COUNTERPARTS.get(outputs[0], f"no_{outputs[0]}".replace("no_no_", "")))
        source = "src/splifft/data of github.com/undef13/splifft"
        if "splifft" not in json.dumps(fact["sources"]):
            source = "the yaml of the release"
    else:
        raise LeftOutError("its settings are not known")
    shared = {"stereo": True, "num_stems": 1 if single else len(outputs)}
    shared |= {"time_transformer_depth": 1, "freq_transformer_depth": 1}
    if architecture == "mel_band_roformer":
        shared["num_bands"] = 60
    return with_stems(architecture, {**values, **shared}, outputs, single, source)


def mdx_settings(file: str) -> tuple[str, dict[str, Any], list[str], str]:
    """Of MDX-Net."""
    n_fft, bins, frames, compensate, primary, other = tables.MDX[file]
    config: dict[str, Any] = {"n_fft": n_fft, "dim_f": bins, "dim_t": frames, "primary_stem": primary}
    if file.startswith("kuielab"):
        config |= {"g": 32}
    config |= tables.MDX_NETWORKS.get(file, {})
    if other:
        config["compensate"] = compensate
    source = "mdx_model_data/model_data_new.json of github.com/TRvlvr/application_data"
    return "mdx_net", config, [primary, other] if other else [primary], "" if file in tables.MDX_NOTES else source


def vr_settings(fact: Fact, found: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[str], str]:
    """Of VR: the published program picks the network by the file's size."""
    from unmixcli.models.vr_networks import ASPP_SIZES, LSTM_SIZES

    file = fact["filename"]
    config: dict[str, Any] = {"layout": found["modelparams"]}
    if file in tables.VR_WIDTHS:
        config["nout"], config["nout_lstm"] = tables.VR_WIDTHS[file]
    else:
        size = fact["size_bytes"] / 1024
        config["network"] = min((*ASPP_SIZES, *LSTM_SIZES), key=lambda known: abs(known - size))
    stems = list(tables.VR_STEMS.get(file, ())) or [canonical_stem(name) for name in fact["stems"]]
    config["instruments"] = stems
    return "vr", config, stems, f"vr_network/modelparams/{found['modelparams']}.json of UVR"


# --- checks


def measure(architecture: str, config: Mapping[str, Any], stems: Sequence[str]) -> dict[str, int]:
    """Build the network without memory; what it says of itself.

    Raises:
        LeftOutError: it can't be built of these settings.
    """
    try:
        with torch.device("meta"):
            model = architecture_class(architecture).from_config(config, stems)
    except ModuleNotFoundError as error:
        raise LeftOutError(f"no architecture {architecture} yet") from error
    except UnmixError as error:
        raise LeftOutError(f"the network can't be built: {error}") from error
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "sample_rate": model.sample_rate, "channels": model.channels}


def check_size(fact: Fact, parameters: int) -> None:
    """The parameters are as many as the facts say, and the file is as large as they need.

    Raises:
        LeftOutError: they are not.
    """
    # Folding an exporter's batch normalisations or a rotary table changes the count by little.
    expected = fact.get("expected_params")
    if expected and abs(parameters - expected) > 0.002 * expected:
        raise LeftOutError(f"its network has {parameters} parameters here, expected {expected}")
    size = fact.get("size_bytes")
    if not size:
        return
    needed = parameters * BYTES[fact.get("weights_dtype")]
    if "htdemucs" in fact["family"] and abs(size - needed / 2) < abs(size - needed):
        needed //= 2  # Demucs' packages are in half precision
    if abs(size - needed) > 0.02 * size + 1_000_000:
        raise LeftOutError(f"the file has {size} bytes, its network needs {needed}")


# --- what an entry says


def short_name(fact: Fact, architecture: str) -> str:
    """A name of few letters: what the program that lists it calls it, or what the file is called."""
    author, _, rest = fact["name"].partition("-")[2].partition("-")
    if architecture in ("bs_roformer", "mel_band_roformer") and rest:
        prefix = "bs_roformer" if architecture == "bs_roformer" else "mel_roformer"
        return clean_name(f"{prefix}_{author}_{rest}")
    stem = re.sub(r"\.(onnx|pth|ckpt|pt|th)$", "", fact["filename"])
    stem = re.sub(r"(?i)^uvr[-_]|[-_]uvr\b", "", stem)
    stem = re.sub(r"(?i)mdx[-_]?net[-_]?", "", stem)
    prefix = {"mdx_net": "mdx", "vr": "vr"}.get(architecture, architecture)
    return clean_name(f"{prefix}_{stem}")


def clean_name(text: str) -> str:
    """Lower case, one underscore between words."""
    return re.sub(r"[^a-z0-9.]+", "_", text.lower()).strip("_")[:64]


def title_of(fact: Fact, architecture: str, stems: Sequence[str]) -> str:
    """One line: what network, by whom, for what."""
    authors = [tables.AUTHORS.get(author, author) for author in fact.get("authors") or [] if author]
    by = f" by {' and '.join(authors)}" if authors else ""
    words = [stem.replace("_", " ").replace("hi hat", "hi-hat") for stem in stems]
    return f"{tables.ARCHITECTURE_TITLES.get(architecture, architecture)}{by}: {', '.join(words)}"


def files_of(fact: Fact, name: str) -> list[dict[str, Any]]:
    """The files of an entry: the first of the facts, whose mirrors are those of all that are the same."""
    first = fact["files"][0]
    urls = sorted(fact["urls"], key=lambda url: any(gone in url for gone in GONE))  # stable: those that are gone last
    if not urls or any(page in url for url in urls for page in PAGES):
        raise LeftOutError("it is on a page for people, there is no file to fetch; no hash is known")
    file: dict[str, Any] = {"part": "checkpoint", "name": file_name(fact["filename"], name), "urls": urls}
    if fact.get("size_bytes"):
        file["size"] = fact["size_bytes"]
    for key in ("sha256", "sha256_prefix", "sha1", "md5"):
        if first.get(key) and not (key == "sha256_prefix" and first.get("sha256")):
            file[key] = first[key]
    if first.get("uvr_md5_tail"):
        file["uvr_md5"] = re.sub(r"[^0-9a-f].*", "", first["uvr_md5_tail"], flags=re.DOTALL)
    if file.keys().isdisjoint(("sha256", "sha256_prefix", "sha1", "md5", "uvr_md5")):
        file["unverified"] = True
    return [file]


def file_name(published: str, name: str) -> str:
    """The published name, unless it says too little among hundreds of others."""
    plain = published in ("model3.ckpt", "pytorch_model.bin") or published.endswith(".tar.gz")
    return f"{name}.{published.partition('.')[2]}" if plain else published


def aliases_of(fact: Fact, name: str) -> list[str]:
    """Names that people know it by, with and without the file's suffix."""
    words: list[str] = []
    for published in (fact["filename"], *fact["also"], *tables.ALIASES.get(fact["filename"], ())):
        words += [published, re.sub(r"\.(onnx|pth|ckpt|pt|th|tar\.gz|bin)$", "", published)]
    if fact["filename"] in ("model3.ckpt", "pytorch_model.bin"):
        words = []
    words.append(fact["name"])
    good = [re.sub(r"[^A-Za-z0-9._+-]+", "-", word).strip("-") for word in words if re.match(r"[A-Za-z0-9]", word)]
    return list(dict.fromkeys(word for word in good if word.casefold() != name.casefold()))


def licence_of(fact: Fact) -> dict[str, Any]:
    """The licence with its source; "unknown" is a value."""
    stated = fact["licence"]
    value = stated["value"]
    spdx = stated["spdx"] if stated["spdx"] and "?" not in stated["spdx"] else None
    source = stated["source"].replace("a public source file", "a notice in a public program").strip()
    source = re.sub(r";\s*\d{6,} \(none\)", "; another notice (none)", source)
    if value == "not stated":
        value, source = "unknown", "the publisher states none" if source == "no statement found" else source
    elif value.startswith("not stated"):
        value = f"unknown: {value}"
    licence = {"name": value, "spdx": spdx, "commercial_ok": stated["commercial_ok"], "source": source}
    return {key: item for key, item in licence.items() if item is not None}


def scores_of(fact: Fact, stems: Sequence[str]) -> list[dict[str, Any]]:
    """Published scores of these stems, one protocol each."""
    scores = []
    for score in fact["sdr"]:
        if score.get("n_tracks"):
            protocol = f"museval v4, medians, over {score['n_tracks']} of the 50 tracks of MUSDB18's test set"
        elif score["dataset"] == "MUSDB18 test, museval median/median" and "SDR, MWF" in score["metric"]:
            continue  # with a filter that the entry's config does not have
        else:
            protocol = tables.PROTOCOLS[score["dataset"]]
        values = {canonical_stem(stem): value for stem, value in score["scores"].items() if stem != "avg"}
        values = {stem: value for stem, value in values.items() if stem in stems}
        if values:
            scores.append({"protocol": protocol, "source": score["source"], "values": values})
    return scores


# --- the registry


def files_owned(facts: Sequence[Fact]) -> set[str]:
    """Names of files whose entries this script writes, or no longer writes."""
    found = [fact for fact in facts if fact["family"] not in BY_HAND]
    return {file_name(fact["filename"], tables.NAMES.get(fact["filename"], "")) for fact in found}


def merge(
    registry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], *, owned: Iterable[str] = ()
) -> dict[str, Any]:
    """The registry with these entries after the hand-written ones, and presets for the stems they bring. Presets that
    are there stay as they are.

    Args:
        owned: names of files; an entry that has one was written by an earlier run.
    """
    ours, files = {entry["name"] for entry in entries}, set(owned)
    models = [
        model
        for model in registry["models"]
        if model["name"] not in ours and files.isdisjoint(file["name"] for file in model.get("files", ()))
    ]
    taken = {word.casefold() for model in models for word in (model["name"], *model.get("aliases", ()))}
    taken |= {entry["name"].casefold() for entry in entries}
    cleaned = []
    for entry in entries:
        aliases = [alias for alias in entry.get("aliases", ()) if alias.casefold() not in taken]
        taken |= {alias.casefold() for alias in aliases}
        cleaned.append({**entry, "aliases": aliases} if aliases else {k: v for k, v in entry.items() if k != "aliases"})
    names = {model["name"] for model in (*models, *cleaned)}
    kept = [p for p in registry["presets"] if p["model"] in names]
    there = {(p["model"], p["quality"]) for p in kept if "then" not in p}
    added = [p for p in presets(names) if (p["model"], p["quality"]) not in there]
    return {"version": registry["version"], "models": models + cleaned, "presets": kept + added}


def dumps(value: Any, indent: str = "") -> str:
    """JSON as people write it: an item a line, short lists of words or numbers on one."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {dumps(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and value:
        line = json.dumps(value, ensure_ascii=False)
        words = not any(isinstance(item, (dict, list)) or " " in str(item) or "://" in str(item) for item in value)
        if words and len(line) <= 100:
            return line
        return "[\n" + ",\n".join(inner + dumps(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def presets(names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Presets of `registry_tables.py` whose model there is."""
    known = set(names)
    for qualities, wanted, model in tables.PRESETS:
        if model in known:
            for quality in qualities:
                yield {"quality": quality, "stems": list(wanted), "model": model}


def report(left_out: Sequence[tuple[Fact, str]]) -> str:
    """The list of checkpoints without an entry, by reason."""
    lines = [
        "# Checkpoints without an entry",
        "",
        "Written by `docs/maintain/build_registry.py`; known to the maintainers, not in the registry.",
        "",
        "| File | Family | Reason |",
        "| --- | --- | --- |",
    ]
    rows = sorted((fact["family"], fact["name"], fact["filename"], reason) for fact, reason in left_out)
    for family, name, file, reason in rows:
        label = file if "." in file else f"{name} ({file})"
        lines.append(f"| `{label}` | {family} | {reason.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
