"""Does this installation work? Every part is tried, not asked: decoders and encoders, devices, folders, registry.

Each check is isolated: one that breaks is a finding with a name and what to do, and the rest go on. Nothing is fetched,
and nothing is left on the disk. A device is judged by a second of audio through a small network with seeded weights,
the same on every machine, against the CPU's result; formats by writing a signal and reading it back.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from unmixcli import __version__
from unmixcli.errors import UnmixError
from unmixcli.paths import cache_folder, config_folder

if TYPE_CHECKING:
    import torch

    from unmixcli.models.base import SeparationModel

Samples = NDArray[np.float32]
Status = Literal["ok", "warning", "broken"]

REPORT = "please report it, with what `unmix doctor --json` prints."
_TORCH_RANGE = ((2, 6), (2, 14))  # the tested range, as in pyproject.toml
_NEEDED = ["torch", "numpy", "soundfile", "av", "soxr", "librosa", "norbert", "safetensors", "mutagen", "click", "rich"]
_NEEDED += ["platformdirs", "requests", "filelock"]
_VARIABLES = ("UNMIX_CACHE", "UNMIX_CONFIG", "UNMIX_MIRROR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
# Free bytes below which the next download or album may fail.
_LITTLE_DISK = 2 * 10**9
# Deviation from the CPU, relative to the peak of its result: float32 in another order stays far below the first,
# TF32 and the like far below the second.
_EXACT, _USABLE = 1e-4, 1e-2
# A lossy codec's round trip of tones may be off by this much; a lossless one's by half a step of 16 bits.
_LOSSY_DB, _LOSSLESS_STEP = 0.5, 2.0**-16


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was checked.
        status: "ok", "warning" (works, but worse than it could) or "broken".
        message: what was found, one line.
        hint: what to do about it.
        facts: the figures, as JSON values.
        seconds: the check took.
    """

    name: str
    status: Status
    message: str
    hint: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return asdict(self)


Check = tuple[str, Callable[[], Finding]]


def examine(checks: Iterable[Check] | None = None) -> Iterator[Finding]:
    """Run checks one after the other; findings come as they are made.

    Args:
        checks: name and function of each; None: all.
    """
    for name, check in checks if checks is not None else all_checks():
        began = time.perf_counter()
        try:
            finding = check()
        except UnmixError as error:
            finding = Finding(name, "broken", str(error), error.hint)
        except Exception as error:  # whatever is wrong with one part, the others are still looked at
            finding = Finding(name, "broken", f"{type(error).__name__}: {error}", REPORT)
        yield Finding(
            name, finding.status, finding.message, finding.hint, finding.facts, round(time.perf_counter() - began, 3)
        )


def all_checks() -> Iterator[Check]:
    """Every check for this machine."""
    yield "python", check_python
    for name in _NEEDED:
        yield name, partial(check_package, name)
    yield "key and tempo", check_pitch_tempo_engine
    yield from _device_checks()
    yield "graphics card", check_graphics_card
    for format_ in _formats():
        yield f"format {format_}", partial(check_format, format_)
    yield "resampler", check_resampler
    yield "cache folder", lambda: check_folder(cache_folder(), "UNMIX_CACHE")
    yield "settings folder", lambda: check_folder(config_folder(), "UNMIX_CONFIG")
    yield "temporary folder", lambda: check_folder(Path(tempfile.gettempdir()), "TMPDIR")
    yield "registry", check_registry
    yield "models", check_models
    yield "network settings", check_network_settings


def _formats() -> list[str]:
    try:
        return list(importlib.import_module("unmixcli.audio.encode").ENCODERS)
    except Exception:  # the check of the package that fails says why
        return ["wav"]


def _device_checks() -> Iterator[Check]:
    try:
        names = importlib.import_module("unmixcli.device").available_devices()
    except Exception:
        names = ("cpu",)
    for name in names:
        yield f"device {name}", partial(check_device, name)


# ---------------------------------------------------------------- versions


def check_python() -> Finding:
    """Python, the system and this program."""
    version = platform.python_version()
    facts = {"python": version, "unmixcli": __version__, "system": platform.platform(), "machine": platform.machine()}
    message = f"unmixcli {__version__}, Python {version}, {platform.platform()}"
    if not (3, 10) <= tuple(map(int, platform.python_version_tuple()[:2])) < (3, 14):
        return Finding("python", "warning", f"{message}: tested are 3.10 to 3.13", "use one of these.", facts)
    return Finding("python", "ok", message, facts=facts)


def check_package(name: str) -> Finding:
    """A package can be imported; which version it is, and which libraries are inside."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except Exception as error:
        return Finding(
            name,
            "broken",
            f"can't be imported: {type(error).__name__}: {error}",
            f"`pip install --force-reinstall {name}` in the environment of unmix.",
        )
    version = importlib.metadata.version(name)
    inside = _inside(name, module)
    message = version + (f" ({inside})" if inside else "")
    facts = {"version": version, "inside": inside}
    if name == "torch" and not _TORCH_RANGE[0] <= _numbers(version) < _TORCH_RANGE[1]:
        low, high = (".".join(map(str, numbers)) for numbers in _TORCH_RANGE)
        return Finding(
            name,
            "warning",
            f"{message}: tested are {low} to below {high}",
            f'`pip install "torch>={low},<{high}"`.',
            facts,
        )
    return Finding(name, "ok", message, facts=facts)


def _inside(name: str, module: Any) -> str:
    if name == "soundfile":
        return str(module.__libsndfile_version__)
    if name == "av":
        versions = module.library_versions
        return ", ".join(f"{key} {'.'.join(map(str, versions[key]))}" for key in ("libavcodec", "libavformat"))
    if name == "torch":
        for kind, version in (("CUDA", module.version.cuda), ("ROCm", getattr(module.version, "hip", None))):
            if version:
                return f"built for {kind} {version}"
        return "built for the CPU" + (" and MPS" if module.backends.mps.is_built() else "")
    return ""


def _numbers(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def check_pitch_tempo_engine() -> Finding:
    """The library behind `--key` and `--tempo`: half a second an octave up has the right pitch."""
    from unmixcli.audio.pitch_tempo import PitchTempo

    name, rate = "key and tempo", 44100
    tone = 0.5 * np.sin(2 * np.pi * 441 * np.arange(rate // 2) / rate, dtype=np.float64).astype(np.float32)[None]
    try:
        stretcher = PitchTempo(rate, 1, semitones=12)
    except UnmixError as error:
        return Finding(name, "warning", str(error), error.hint)
    shifted = np.concatenate([stretcher.process(tone), stretcher.finish()], axis=1)[0]
    peak = int(np.abs(np.fft.rfft(shifted * np.hanning(len(shifted)))).argmax()) * rate / len(shifted)
    if abs(peak - 882) > 5:
        return Finding(name, "broken", f"a tone an octave up came out at {peak:.0f} Hz, expected 882", REPORT)
    return Finding(name, "ok", f"python-stretch {importlib.metadata.version('python-stretch')}")


# ---------------------------------------------------------------- devices


def check_device(name: str, model: SeparationModel | None = None) -> Finding:
    """A second of audio on a device, against the CPU.

    Args:
        name: of the device.
        model: the network; None: a small one with seeded weights. It is called on the CPU first.
    """
    import torch

    from unmixcli.device import device_title

    title = f"device {name}"
    device = torch.device(name)
    model = model or seeded_model()
    mixture = torch.from_numpy(np.random.default_rng(0).uniform(-0.5, 0.5, (1, 2, model.sample_rate)).astype("f4"))
    with torch.inference_mode(), _one_thread():
        reference, _ = _timed(model, mixture, torch.device("cpu"))
        estimate, seconds = _timed(model, mixture, device)
    peak = float(reference.abs().max())
    speed = mixture.shape[-1] / model.sample_rate / seconds
    facts: dict[str, Any] = {"device": device_title(device), "times_real_time": round(speed, 1)}
    advice = "use --device cpu until the driver or torch is newer."
    if not bool(torch.isfinite(estimate).all()):
        share = float((~torch.isfinite(estimate)).float().mean())
        return Finding(title, "broken", f"{share:.0%} of its result is not a number (NaN or infinite)", advice, facts)
    deviation = float((estimate - reference).abs().max()) / peak
    facts["deviation"] = deviation
    message = f"{facts['device']}: {speed:.0f} times real time (small network{', one thread' if name == 'cpu' else ''})"
    if name != "cpu":
        message += f", {20 * math.log10(max(deviation, 1e-12)):.0f} dB from the CPU's result"
    if deviation > _USABLE:
        return Finding(title, "broken", message, advice, facts)
    if deviation > _EXACT:
        return Finding(
            title, "warning", message, "results differ a little from the CPU's; --device cpu avoids it.", facts
        )
    return Finding(title, "ok", message, facts=facts)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """torch with one thread on the CPU: on a busy machine, threads that wait for each other in a network as small as
    this one would take seconds."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(model: SeparationModel, mixture: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, float]:
    """The model's result on a device, back on the CPU, and the seconds of its second run (the first one warms up)."""
    moved, heard = model.to(device), mixture.to(device)
    moved(heard)
    began = time.perf_counter()
    result = moved(heard).float().cpu()  # waits for the device
    return result, max(time.perf_counter() - began, 1e-6)


def seeded_model() -> SeparationModel:
    """A small Open-Unmix with its Wiener filter and random weights, the same everywhere."""
    import torch

    from unmixcli.models.open_unmix import OpenUnmix

    targets = ("vocals", "drums")
    config = {"nfft": 1024, "nhop": 256, "nb_output_bins": 513, "max_bin": 200, "hidden_size": 32, "niter": 1}
    model = OpenUnmix.from_config({**config, "targets": targets}, targets)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(tensor.shape, generator=generator) * 0.1 if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


def check_graphics_card() -> Finding:
    """A graphics card that torch can't use."""
    import torch

    return judge_graphics_card(
        nvidia_card(), torch.version.cuda, torch.cuda.is_available(), getattr(torch.version, "hip", None)
    )


def judge_graphics_card(card: str | None, cuda: str | None, available: bool, hip: str | None = None) -> Finding:
    """What to say about an NVIDIA card.

    Args:
        card: its name, None without one.
        cuda: CUDA version that torch is built for, None for a build without.
        available: torch can use a card.
        hip: ROCm version that torch is built for.
    """
    name = "graphics card"
    facts = {"card": card, "cuda": cuda, "available": available}
    if card is None:
        return Finding(name, "ok", "torch can use one" if available else "no NVIDIA card found", facts=facts)
    if available:
        return Finding(name, "ok", card, facts=facts)
    if cuda is None:
        built = f"ROCm {hip}" if hip else "the CPU only"
        return Finding(
            name,
            "warning",
            f"{card} is here, but this torch is built for {built}, so the card is not used",
            'install a CUDA build of "torch>=2.6,<2.14": https://pytorch.org/get-started/locally has the command.',
            facts,
        )
    return Finding(
        name,
        "warning",
        f"{card} is here and torch is built for CUDA {cuda}, but it can't use the card",
        "update the NVIDIA driver, or check CUDA_VISIBLE_DEVICES and the container's access to the card.",
        facts,
    )


def nvidia_card() -> str | None:
    """Name of the first NVIDIA card that the system knows of, whether or not torch can use it."""
    for command, pattern in (
        (["nvidia-smi", "-L"], r"GPU \d+: (.+?)(?: \(UUID.*)?$"),
        (["lspci"], r"(?:VGA|3D).*?: (NVIDIA.*)$"),
    ):
        if shutil.which(command[0]) is None:
            continue
        try:
            output = subprocess.run(command, capture_output=True, text=True, timeout=5, errors="replace").stdout
        except (OSError, subprocess.SubprocessError):
            continue
        found = re.search(pattern, output, re.MULTILINE)
        if found:
            return found[1].strip()
    return None


# ---------------------------------------------------------------- audio


def check_format(format_: str) -> Finding:
    """Write half a second, read it back: length, offset and level."""
    from unmixcli.audio.decode import open_audio
    from unmixcli.audio.encode import LOSSLESS, SUFFIX, open_encoder

    name = f"format {format_}"
    rate = 48000 if format_ == "opus" else 44100
    written = _test_signal(rate)
    with tempfile.TemporaryDirectory(prefix="unmix-doctor-") as folder:
        path = Path(folder) / f"test.{SUFFIX[format_]}"
        with open_encoder(path, format=format_, sample_rate=rate, channels=2) as encoder:
            encoder.write(written)
            offset = encoder.offset
        with open_audio(path) as decoder:
            read = np.concatenate([np.zeros((2, 0), np.float32), *decoder], axis=1)
    return judge_round_trip(name, written, read, lossless=format_ in LOSSLESS, offset=offset)


def judge_round_trip(name: str, written: Samples, read: Samples, *, lossless: bool, offset: int = 0) -> Finding:
    """Compare [C, T] written with [C, T] read."""
    facts: dict[str, Any] = {"samples_written": written.shape[1], "samples_read": read.shape[1]}
    if read.shape != written.shape:
        return Finding(name, "broken", f"{read.shape} samples came back of {written.shape}", REPORT, facts)
    found = _offset(written, read)
    level = 20 * math.log10(max(float(np.std(read)), 1e-9) / float(np.std(written)))
    facts |= {"offset": found, "level_db": round(level, 3)}
    if found != offset:
        return Finding(name, "broken", f"the audio came back {found} samples late, expected {offset}", REPORT, facts)
    if lossless:
        error = float(np.abs(read - written).max())
        if error > _LOSSLESS_STEP:
            return Finding(name, "broken", f"lossless, but samples came back {error:.2g} off", REPORT, facts)
        return Finding(name, "ok", "exact", facts=facts)
    if abs(level) > _LOSSY_DB:
        return Finding(name, "broken", f"the audio came back {level:+.1f} dB louder", REPORT, facts)
    return Finding(name, "ok", f"aligned, level {level:+.2f} dB", facts=facts)


def _offset(written: Samples, read: Samples) -> int:
    """Samples by which one signal is later than the other: the peak of their cross-correlation."""
    size = 2 * written.shape[1]
    spectrum = np.fft.rfft(read[0], size) * np.conj(np.fft.rfft(written[0], size))
    peak = int(np.fft.irfft(spectrum, size).argmax())
    return peak if peak < size // 2 else peak - size


def _test_signal(rate: int) -> Samples:
    """Half a second of a rising tone, which lies on itself at one offset only, the channels different."""
    t = np.arange(rate // 2) / rate
    sweep = np.sin(2 * np.pi * (200 * t + 3000 * t**2)) * np.hanning(len(t))
    return np.stack([0.5 * sweep, 0.3 * sweep]).astype(np.float32)


def check_resampler() -> Finding:
    """A tone from 44.1 to 48 kHz and back."""
    from unmixcli.audio.resample import resample_blocks

    signal = _test_signal(44100)
    there = list(resample_blocks([signal], 44100, 48000, 2))
    back = np.concatenate(list(resample_blocks(there, 48000, 44100, 2, length=signal.shape[1])), axis=1)
    error = 20 * math.log10(max(float(np.abs(back - signal).max()), 1e-9) / float(np.abs(signal).max()))
    facts = {"error_db": round(error, 1)}
    if error > -80:
        return Finding("resampler", "broken", f"44.1 → 48 → 44.1 kHz is off by {error:.0f} dB", REPORT, facts)
    return Finding("resampler", "ok", f"44.1 → 48 → 44.1 kHz within {error:.0f} dB", facts=facts)


# ---------------------------------------------------------------- folders, registry, network


def check_folder(folder: Path, variable: str) -> Finding:
    """A file can be written where the folder is or would be, and there is room.

    Args:
        variable: the environment variable that moves it.
    """
    name = {"UNMIX_CACHE": "cache folder", "UNMIX_CONFIG": "settings folder"}.get(variable, "temporary folder")
    place = next((path for path in [folder, *folder.parents] if path.exists()), Path())
    facts: dict[str, Any] = {"folder": str(folder), "exists": place == folder}
    advice = f"set {variable} to a folder you may write to."
    if not place.is_dir():
        return Finding(name, "broken", f"{folder}: {place} is not a folder", advice, facts)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".unmix-doctor-") as file:
            file.write(b"unmix" * 1000)
            file.flush()
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding(name, "broken", f"{folder} can't be written: {error.strerror or error}", advice, facts)
    facts["free_bytes"] = free
    message = f"{folder}, {free / 1e9:.1f} GB free"
    if free < _LITTLE_DISK:
        return Finding(name, "warning", f"{message}: that is little", f"make room, or set {variable}.", facts)
    return Finding(name, "ok", message, facts=facts)


def check_registry() -> Finding:
    """The bundled registry and the user's entries; one of theirs that is skipped is a warning."""
    from unmixcli.registry import load_registry

    skipped: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: skipped.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("unmixcli.registry")
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)  # -q would swallow it
    logger.propagate = False
    try:
        entries = load_registry().entries
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
    own = sum(not entry.bundled for entry in entries)
    facts = {"entries": len(entries), "own": own, "skipped": skipped}
    message = f"{len(entries)} models, {own} of them your own"
    if skipped:
        return Finding("registry", "warning", f"{message}; {'; '.join(skipped)}", "correct or remove the file.", facts)
    return Finding("registry", "ok", message, facts=facts)


def check_models() -> Finding:
    """Weights that are on this machine have the size they should have."""
    from unmixcli.cache import file_path
    from unmixcli.registry import load_registry

    whole: list[str] = []
    damaged: list[str] = []
    for entry in load_registry().entries:
        here = [file for file in entry.files if file_path(entry, file).is_file()]
        bad = [file for file in here if file.size is not None and file_path(entry, file).stat().st_size != file.size]
        if bad:
            damaged.append(entry.name)
        elif here and len(here) == len(entry.files):
            whole.append(entry.name)
    facts = {"installed": whole, "damaged": damaged}
    if damaged:
        return Finding(
            "models",
            "broken",
            f"files of {', '.join(damaged)} have the wrong size",
            f"`unmix models verify {damaged[0]}` says which; `unmix models remove {damaged[0]}` and fetch it again.",
            facts,
        )
    message = f"installed: {', '.join(whole)}" if whole else "none installed; what is needed is fetched when it is used"
    return Finding("models", "ok", message, facts=facts)


def check_network_settings() -> Finding:
    """Environment variables that decide where downloads come from. Nothing is fetched."""
    name = "network settings"
    found: dict[str, str] = {}
    for variable in (*_VARIABLES, *_CA_VARIABLES):
        for spelling in (variable, variable.lower()):
            if value := os.environ.get(spelling):
                found[spelling] = re.sub(r"//[^/@\s]*@", "//…@", value)  # without user and password
    for variable in _CA_VARIABLES:
        if variable in found and not Path(found[variable]).exists():
            missing = f"{variable} names {found[variable]}, which is not there"
            return Finding(name, "broken", missing, f"correct {variable} or unset it.", dict(found))
    mirror = found.get("UNMIX_MIRROR")
    if mirror is not None and not re.match(r"https?://|file://|/", mirror):
        return Finding(name, "broken", f"UNMIX_MIRROR is {mirror!r}, expected https://…", "correct it.", dict(found))
    message = ", ".join(f"{key}={value}" for key, value in found.items()) or "no proxy, mirror or CA is set"
    return Finding(name, "ok", message, facts=dict(found))
