"""The VR networks against audio-separator: forward pass, band layouts, and a song from waveform to stems.

    pip install audio-separator librosa samplerate && python docs/benchmarks/vr.py [SONG] [--seconds 20]
        [--only networks bands songs] [--threads 1]

Weights are seeded and random, so figures say how near the two programs are, not how well they separate. Networks: the
largest deviation of the mask of one window, float32. Bands: signal-to-distortion ratio of the spectrogram of a layout,
and of the waveform made of it. Songs: the published path (load, transform, mask, inverse transform) against
`Separator`, per stem; once as it is and once with the song so quiet in its first half that a level of the segment
instead of the track's would show.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
# this file is called like a package here: its own folder must not be looked in
sys.path = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from vr_toys import magnitudes, seeded_state  # noqa: E402

warnings.filterwarnings("ignore")
PUBLIC = "audio_separator.separator.uvr_lib_v5"
SIZES = [31191, 33966, 123821, 129605, 537238]
VERSION_51 = [(672, 32, 128), (672, 64, 128), (672, 48, 128), (1024, 16, 128), (1024, 32, 128), (896, 32, 128)]
# layout, whether version 5.1 goes with it
BANDS = [
    *((name, False) for name in ("1band_sr32000_hl512", "1band_sr33075_hl384", "1band_sr44100_hl512")),
    *((name, False) for name in ("1band_sr44100_hl1024", "2band_32000", "3band_44100", "3band_44100_mid")),
    *((name, False) for name in ("3band_44100_msb2", "4band_44100", "4band_v2", "4band_v2_sn")),
    *((name, True) for name in ("1band_sr44100_hl1024", "4band_v3", "4band_v3_sn", "4band_v4_ms_fullband")),
]
# our config, stems
SONGS: dict[str, dict[str, Any]] = {
    "1_HP-UVR": {"layout": "4band_44100", "network": 123821},
    "4_HP-Vocal-UVR": {"layout": "4band_44100", "network": 123821, "instruments": ["vocals", "instrumental"]},
    "6_HP-Karaoke-UVR": {"layout": "3band_44100_msb2", "network": 123812},
    "15_SP-UVR-MID": {"layout": "3band_44100_mid", "network": 31191},
    "10_SP-UVR-2B": {"layout": "2band_32000", "network": 31191},
    "UVR-De-Echo": {"layout": "4band_v3", "nout": 48, "nout_lstm": 128},
    "UVR-BVE": {"layout": "4band_v3_sn", "network": 218409},
    "UVR-DeReverb": {"layout": "4band_v4_ms_fullband", "nout": 32, "nout_lstm": 128},
    "UVR-DeNoise-Lite": {"layout": "1band_sr44100_hl1024", "nout": 16, "nout_lstm": 128},
}


def decibels(expected: Any, found: Any) -> float:
    """Signal-to-distortion ratio of `found`."""
    expected, found = np.asarray(expected), np.asarray(found)
    return float(10 * np.log10(np.sum(abs(expected) ** 2) / np.sum(abs(expected - found) ** 2)))


def public_network(config: dict[str, Any], bins: int) -> torch.nn.Module:
    """The public network of a config, with seeded weights."""
    nets, newer = import_module(f"{PUBLIC}.vr_network.nets"), import_module(f"{PUBLIC}.vr_network.nets_new")
    size = config.get("network")
    if size is None or size in (56817, 218409):
        width, hidden = config.get("nout", 32), config.get("nout_lstm", 128)
        network = newer.CascadedNet(2 * bins, size or 0, nout=width, nout_lstm=hidden)
    else:
        network = nets.determine_model_capacity(2 * bins, size)
    network.load_state_dict(public_state(network))
    return network.eval()


def public_state(network: torch.nn.Module) -> dict[str, Tensor]:
    state = seeded_state({name: tuple(value.shape) for name, value in network.state_dict().items()})
    return {
        name: torch.zeros((), dtype=torch.long) if name.endswith("tracked") else value for name, value in state.items()
    }


def networks() -> None:
    """Print the deviation of every size."""
    from unmixcli.models.vr import VR
    from unmixcli.models.vr_networks import published_shapes

    cases: list[tuple[int, dict[str, Any]]] = [(768, {"network": size}) for size in SIZES]
    cases += [(bins, {"nout": width, "nout_lstm": hidden}) for bins, width, hidden in VERSION_51]
    print(
        "\n| network | bins | parameters | largest deviation | masks | public | ours |\n|---|---|---|---|---|---|---|"
    )
    for bins, config in cases:
        public = public_network(config, bins)
        layout = {"sample_rate": 44100, "bins": bins}
        layout["bands"] = [{"sample_rate": 44100, "hop": 1024, "n_fft": 4096, "crop": [0, bins + 1]}]
        values = {**config, "layout": layout}
        ours = VR.from_config(values, ("instrumental",)).eval()
        ours.load_state_dict(VR.convert_state(values, {"weights": public.state_dict()}))
        heard = magnitudes(bins, 512)
        with torch.inference_mode():
            start = time.perf_counter()
            expected = public(heard)
            middle = time.perf_counter()
            found = ours.network(heard)
            seconds = (middle - start, time.perf_counter() - middle)
        parameters = sum(np.prod(s) for n, s in published_shapes(ours.network).items() if "running" not in n)
        name = config.get("network") or f"5.1, {config['nout']} / {config['nout_lstm']}"
        deviation = float((expected - found).abs().max())
        spread = f"{expected.min():.2f} … {expected.max():.2f}"
        times = f"{seconds[0]:.1f} s | {seconds[1]:.1f} s"
        print(f"| {name} | {bins} | {parameters:,} | {deviation:.1e} | {spread} | {times} |", flush=True)
        del public, ours


def parameters_of(layout: str) -> Any:
    """The public parameters of a layout."""
    folder = Path(import_module(f"{PUBLIC}.vr_network").__file__ or "").parent / "modelparams"
    return import_module(f"{PUBLIC}.vr_network.model_param_init").ModelParameters(str(folder / f"{layout}.json"))


def loaded(path: Path, layout: str, newer: bool) -> Any:
    """A song's spectrogram as the public program makes it."""
    separator = import_module("audio_separator.separator.architectures.vr_separator").VRSeparator
    state = {"torch_device_mps": None, "high_end_process": False, "is_vr_51_model": newer, "wav_subtype": "FLOAT"}
    state |= {
        "model_params": parameters_of(layout),
        "audio_file_path": str(path),
        "logger": logging.getLogger("public"),
    }
    return separator.loading_mix(SimpleNamespace(**state))


def bands(path: Path) -> None:
    """Print how near every layout is."""
    from unmixcli.audio.resample import resample_blocks
    from unmixcli.models.vr_bands import BandSplit, Layout

    public = import_module(f"{PUBLIC}.spec_utils")
    song, rate = soundfile.read(path, dtype="float32")
    print("\n| layout | version | spectrogram | waveform of it |\n|---|---|---|---|")
    for name, newer in BANDS:
        layout = Layout.read(name)
        split = BandSplit(layout, per_band=newer)
        expected = loaded(path, name, newer)
        wave = np.concatenate(list(resample_blocks([song.T], rate, layout.sample_rate, 2)), 1)
        wave = np.pad(wave, ((0, 0), (0, -wave.shape[1] % split.hop)))
        frames = expected.shape[-1]
        found = split.analyse(torch.from_numpy(wave)[None])[0, ..., :frames].numpy()
        back = public.cmb_spectrogram_to_wave(expected, parameters_of(name), is_v51_model=newer)
        ours = split.synthesise(torch.from_numpy(np.ascontiguousarray(expected))[None])[0].numpy()
        shared = min(back.shape[-1], ours.shape[-1])
        ratios = f"{decibels(expected, found):.0f} dB | {decibels(back[:, :shared], ours[:, :shared]):.0f} dB"
        print(f"| {name} | {'5.1' if newer else 'before 5.1'} | {ratios} |", flush=True)


def separated(path: Path, config: dict[str, Any], network: torch.nn.Module) -> list[Any]:
    """Both stems as the public program makes them, [2, 2, T], at the layout's rate."""
    module = import_module("audio_separator.separator.architectures.vr_separator")
    newer = "nout" in config or config["network"] in (56817, 218409)
    parameters = parameters_of(config["layout"])
    primary = config.get("instruments", ["instrumental"])[0].capitalize()
    state = SimpleNamespace(
        logger=logging.getLogger("public"), model_run=network, model_params=parameters, is_vr_51_model=newer
    )
    state.window_size, state.batch_size, state.enable_tta, state.enable_post_process = 512, 1, False, False
    state.high_end_process, state.primary_stem_name, state.input_high_end_h = False, primary, None
    aggressiveness = {"value": 0.05, "split_bin": parameters.param["band"][1]["crop_stop"], "aggr_correction": None}
    spectrogram = loaded(path, config["layout"], newer)
    found = module.VRSeparator.inference_vr(state, spectrogram, torch.device("cpu"), aggressiveness)
    return [module.VRSeparator.spec_to_wav(state, part) for part in found]


def songs(path: Path, folder: Path) -> None:
    """Print how near the stems of a song are."""
    from unmixcli import Separator
    from unmixcli.models.vr_bands import Layout
    from unmixcli.user_models import add_model

    print(
        "\n| network and layout | song | stem 1 | stem 2 | apart from seams | public | ours |\n"
        "|---|---|---|---|---|---|---|"
    )
    samples, rate = soundfile.read(path, dtype="float32")
    quiet = samples.copy()
    quiet[: len(quiet) // 2] *= 0.03
    inputs = {"as it is": samples, "half of it quiet": quiet}
    for name, config in SONGS.items():
        layout = Layout.read(config["layout"])
        network = public_network(config, layout.bins)
        torch.save(network.state_dict(), folder / f"{name}.pth")
        (folder / "config.json").write_text(json.dumps(config))
        stems = config.get("instruments", ["instrumental", "vocals"])
        weights = [str(folder / f"{name}.pth")]
        model = add_model(
            weights, name=f"random_{name.lower()}", architecture="vr", config=folder / "config.json", stems=stems
        )
        for words, content in inputs.items():
            from unmixcli.audio.resample import resample_blocks

            at_rate = np.concatenate(list(resample_blocks([content.T], rate, layout.sample_rate, 2)), 1)
            soundfile.write(folder / "song.wav", at_rate.T, layout.sample_rate, subtype="FLOAT")
            start = time.perf_counter()
            expected = separated(folder / "song.wav", config, network)
            middle = time.perf_counter()
            separator = Separator(model.entry.name, residual="ignore", device="cpu")
            found = separator.separate(folder / "song.wav").stems
            seconds = (middle - start, time.perf_counter() - middle)
            shared = min(expected[0].shape[-1], found[stems[0]].shape[-1])
            pairs = [(e[:, :shared], found[stem][:, :shared]) for e, stem in zip(expected, stems, strict=True)]
            away = apart(separator, shared)
            inner = min(decibels(e[:, away], f[:, away]) for e, f in pairs)
            ratios = " | ".join(f"{decibels(*pair):.0f} dB" for pair in pairs)
            row = (f"{name} ({config['layout']})", words, ratios, f"{inner:.0f} dB", *(f"{s:.0f} s" for s in seconds))
            print(f"| {' | '.join(row)} |", flush=True)


def apart(separator: Any, length: int) -> Any:
    """Samples that lie away from where segments meet, [length] of booleans."""
    model = separator.runner.model
    stride = round((model.segment_length - 2 * model.edge) * (1 - model.overlap))
    place = np.arange(length)
    near = (model.margin + 8) * model.hop
    return (place < near) | ((place % stride >= near) & (place % stride < stride - near))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", nargs="?", type=Path, default=ROOT / "docs" / "demo" / "caesium.ogg")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["networks", "bands", "songs"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    samples, rate = soundfile.read(arguments.song, dtype="float32", always_2d=True)
    samples = np.broadcast_to(samples, (len(samples), 2))[: int(arguments.seconds * rate)]
    print(
        f"audio-separator {version('audio-separator')}, torch {torch.__version__}, "
        f"{len(samples) / rate:.0f} s of a song"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["UNMIX_CONFIG"], os.environ["UNMIX_CACHE"] = str(folder / "config"), str(folder / "cache")
        path = folder / "whole.wav"
        soundfile.write(path, samples, rate, subtype="FLOAT")
        if "networks" in arguments.only:
            networks()
        if "bands" in arguments.only:
            bands(path)
        if "songs" in arguments.only:
            songs(path, folder)


if __name__ == "__main__":
    main()
