"""Config files as trainers publish them beside their weights: YAML of the MSST and UVR kind, to a registry's values.

Such a file has sections: `model` (the network's settings), `audio` (rate, spectrogram, chunk length), `training`
(instruments, which of them is the target) and `inference` (overlap). A registry entry has one flat mapping, so that an
architecture finds every setting under its published name:

    everything in `model`; of `audio` what the network is built with; `chunk_size`, `num_overlap` and `normalize` of the
    protocol; `instruments` and, where it is set, `target_instrument`, both by our names of stems.

Files come from strangers. Only plain YAML is read, and one tag more (`!!python/tuple`, as a list): these files have it,
and no other. Size, depth and what aliases unfold to are bounded before a value is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from unmixcli.errors import RegistryError

LARGEST = 1 << 16  # bytes; published files have a few thousand
DEEPEST = 32  # lists in lists
MOST_VALUES = 100_000  # with aliases unfolded

# What trainers call an architecture -> the row of our table.
ARCHITECTURE_NAMES = {
    "bs_roformer": "bs_roformer",
    "mel_band_roformer": "mel_band_roformer",
    "mdx23c": "mdx23c",
    "tfc_tdf_v3": "mdx23c",
    "scnet": "scnet",
    "scnet_masked": "scnet_masked",
    "htdemucs": "htdemucs",
    "hdemucs": "hdemucs",
    "demucs3_mmi": "hdemucs",
    "bandit_v2": "bandit_v2",
    "apollo": "apollo",
}
# A setting that only one of the architectures has, in the order we look.
_TELLTALES = (
    ("freqs_per_bands", "bs_roformer"),
    ("num_bands", "mel_band_roformer"),
    ("num_subbands", "mdx23c"),
    ("band_SR", "scnet"),
    ("feature_dim", "apollo"),
)
# Settings of `audio` that an architecture is built with.
_AUDIO = {
    "bs_roformer": ("sample_rate",),
    "mel_band_roformer": ("sample_rate",),
    "mdx23c": ("sample_rate", "n_fft", "hop_length", "dim_f"),
    "scnet": ("sample_rate",),
    "scnet_masked": ("sample_rate",),
    "bandit_v2": ("sample_rate",),
    "apollo": (),  # `model` says it
}
_DEMUCS = ("htdemucs", "hdemucs")
BANDIT = "Bandit"  # files of BandIt v2 name its class, and have its settings under `kwargs`

# Published name of a stem -> ours. Names are compared in lower case, with "_" for what stands between words.
CANONICAL = {
    "vocal": "vocals",
    "voice": "vocals",
    "voices": "vocals",
    "drum": "drums",
    "inst": "instrumental",
    "instrum": "instrumental",
    "instrumentals": "instrumental",
    "others": "other",
    "no_drum_bass": "no_drums_bass",
    "lead_vocal": "lead_vocals",
    "lead": "lead_vocals",
    "karaoke": "lead_vocals",  # what models for karaoke take out, not what they leave
    "back_vocal": "backing_vocals",
    "back_vocals": "backing_vocals",
    "backing_vocal": "backing_vocals",
    "bv": "backing_vocals",
    "male": "male_vocals",
    "female": "female_vocals",
    "noreverb": "dry",
    "no_reverb": "dry",
    "dereverb": "dry",
    "no_echo": "dry",
    "no_dry": "reverb",
    "no_noise": "clean",
    "denoised": "clean",
    "hh": "hi_hat",
    "hihat": "hi_hat",
    "hi_hats": "hi_hat",
    "tom": "toms",
    "cymbal": "cymbals",
    "center": "centre",
    "side": "sides",
    "similarity": "centre",
    "difference": "sides",
    "bgm": "music",
    "sfx": "effects",
}
# Where a network has two outputs and one is called "other", that is what the first leaves over.
_COUNTERPARTS = {"vocals": "instrumental", "dry": "reverb", "clean": "noise", "instrumental": "vocals"}


def canonical_stem(name: str) -> str:
    """Our name of a published stem ("Hi-Hat" -> "hi_hat"); of an unknown one the same in lower case."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")
    return CANONICAL.get(plain, plain)


def canonical_stems(names: Sequence[str]) -> list[str]:
    """Our names of a network's outputs, in order. Of two, "other" is what the first one leaves over."""
    stems = [canonical_stem(name) for name in names]
    if len(stems) == 2 and "other" in stems:
        first = stems[1 - stems.index("other")]
        stems[stems.index("other")] = _COUNTERPARTS.get(first, f"no_{first}")
    return stems


def is_published(values: Mapping[str, Any]) -> bool:
    """Whether these are the sections of a published file, and not settings as the registry has them."""
    named = "model" in values or values.get("cls") == BANDIT
    return named and any(isinstance(values.get(name), dict) for name in ("audio", "training", "inference"))


def flatten(values: Mapping[str, Any], architecture: str | None = None) -> tuple[str, dict[str, Any], list[str]]:
    """A published file's sections as a registry entry has them.

    Args:
        values: the sections, by name.
        architecture: a row of our table; None: as the file says, or as its settings tell.

    Returns:
        architecture, its flat config, the stems it gives (one where there is a target).

    Raises:
        RegistryError: the architecture can't be told, or a section isn't what it should be.
    """
    model, kind = _section(values, "model"), values.get("model")
    if kind is None and values.get("cls") == BANDIT:
        model, architecture = _section(values, "kwargs"), architecture or "bandit_v2"
    if isinstance(kind, str):  # the section of settings is called like the network
        model = _section(values, kind)
    audio, training, inference = (_section(values, name) for name in ("audio", "training", "inference"))
    architecture = architecture or _architecture(values, model)
    names = training.get("instruments", model.get("instruments", model.get("sources")))
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise RegistryError("training.instruments is missing, expected the names of the stems, in order.")
    instruments = canonical_stems(names)
    target = training.get("target_instrument")
    if target is not None and target not in names:
        raise RegistryError(f"training.target_instrument is {target!r}, which is none of the instruments.")
    if architecture in _DEMUCS:
        config = _demucs(model, training, instruments)
    else:
        config = {key: value for key, value in model.items() if key not in ("model_type", "architecture", "sources")}
        outputs = model.get("sources")
        if isinstance(outputs, list) and len(outputs) != len(names):  # the network of a target may have no more
            config["sources"] = outputs
        for key in _AUDIO.get(architecture, tuple(audio)):
            if key in audio:
                config.setdefault(key, audio[key])
        config |= _protocol(architecture, audio, inference)
        config["instruments"] = instruments
        if target is not None:
            config["target_instrument"] = instruments[names.index(target)]
    _check_plain(config, "model")
    stems = [instruments[names.index(target)]] if target is not None else instruments
    return architecture, config, stems


def _section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    if section is None or (name == "model" and isinstance(section, str)):
        return {}
    if not isinstance(section, dict) or not all(isinstance(key, str) for key in section):
        raise RegistryError(f"{name} is {type(section).__name__}, expected settings by name.")
    return section


def _architecture(values: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    said = [place[key] for place in (values, model) for key in ("architecture", "model_type") if key in place]
    if not said and isinstance(values.get("model"), str):
        said = [values["model"]]
    if said:
        name = said[0]
        if not isinstance(name, str) or name not in ARCHITECTURE_NAMES:
            raise RegistryError(f"model_type is {name!r}; known are {', '.join(sorted(ARCHITECTURE_NAMES))}.")
        return ARCHITECTURE_NAMES[name]
    for key, architecture in _TELLTALES:
        if key in model:
            return architecture
    raise RegistryError(
        "what network this file is of can't be told from its settings.",
        hint=f"say it with --architecture NAME; known are {', '.join(sorted(set(ARCHITECTURE_NAMES.values())))}.",
    )


def _protocol(architecture: str, audio: Mapping[str, Any], inference: Mapping[str, Any]) -> dict[str, Any]:
    """How a track is cut, as published: `inference` wins over `audio`, as in the programs that read these files."""
    config: dict[str, Any] = {}
    chunk = inference.get("chunk_size", audio.get("chunk_size"))
    frames = inference.get("dim_t", audio.get("dim_t"))
    if architecture == "mdx23c" and type(frames) is int and type(audio.get("hop_length")) is int:
        chunk = audio["hop_length"] * (frames - 1) if chunk is None else chunk
    if chunk is not None:
        config["chunk_size"] = chunk
    for key in ("num_overlap", "normalize"):
        if inference.get(key) is not None:
            config[key] = inference[key]
    return config


def _demucs(model: Mapping[str, Any], training: Mapping[str, Any], instruments: Sequence[str]) -> dict[str, Any]:
    """Demucs' own names: what other networks have under `audio` stands under `training`."""
    config = {key: value for key, value in model.items() if (key, value) != ("num_subbands", 1)}
    for key, name in (("samplerate", "samplerate"), ("channels", "audio_channels"), ("segment", "segment")):
        if training.get(key) is not None:
            config[name] = training[key]
    return {**config, "sources": list(instruments)}


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise RegistryError(f"{where}: {key!r} is no name of a setting.")
            _check_plain(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RegistryError(f"{where} is {value}, expected a finite number.")
    elif not (value is None or isinstance(value, (bool, int, float, str))):
        raise RegistryError(f"{where} is a {type(value).__name__}, expected numbers, texts, lists or true and false.")


# --- YAML


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no annotations
    """Plain YAML and `!!python/tuple`; numbers like 1e-5 are numbers, dates are texts."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One value and those in it. Stops where it is too deep: what follows would cost its depth with every word."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"values are nested more than {DEEPEST} deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _list_of(loader: yaml.SafeLoader, node: yaml.Node) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a list of values", node.start_mark)
    return list(loader.construct_sequence(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _list_of)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)


def read_yaml(path: Path) -> Any:
    """The values of a YAML file.

    Raises:
        RegistryError: it can't be read, is too large, or has anything but plain values in it.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise RegistryError(f"{path} can't be read: {error.strerror or error}.") from error
    if len(data) > LARGEST:
        raise RegistryError(f"{path} is larger than {LARGEST} bytes, so it is no config file.")
    try:
        return parse_yaml(data.decode("utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RegistryError(f"{path} is not plain YAML: {' '.join(str(error).split())[:300]}.") from error


def parse_yaml(text: str) -> Any:
    """The values of one YAML document.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: what it breaks.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values once its aliases are unfolded")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, one with an alias as often as it is named."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # met again while it is being counted: it holds itself
        below = [node.value] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for item in below for part in (item if isinstance(item, tuple) else (item,))]
        total = 1 + sum(_count(part, known) for part in parts if isinstance(part, yaml.Node))
        known[id(node)] = min(total, MOST_VALUES + 1)
    return known[id(node)]
