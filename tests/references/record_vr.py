"""Record vr.npz: small VR networks with seeded weights, band layouts and a whole path, run by the public package.

Not part of the tests. It needs audio-separator 0.47.1 with librosa and samplerate:

    python tests/references/record_vr.py

Weights, magnitudes and mixtures follow from seeds (`tests/vr_toys.py`), so only samples of the results are stored.
"""

import logging
import sys
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from vr_toys import BANDS, CASES, PATHS, every, magnitudes, path_wave, seeded_state, waves  # noqa: E402

PUBLIC = "audio_separator.separator.uvr_lib_v5"
nets = import_module(f"{PUBLIC}.vr_network.nets")
nets_new = import_module(f"{PUBLIC}.vr_network.nets_new")
spec_utils = import_module(f"{PUBLIC}.spec_utils")
separator = import_module("audio_separator.separator.architectures.vr_separator").VRSeparator


def network(arguments: dict, bins: int) -> torch.nn.Module:
    """The public network with seeded weights."""
    made = (
        nets.determine_model_capacity(2 * bins, **arguments)
        if "nn_architecture" in arguments
        else nets_new.CascadedNet(2 * bins, 0, **arguments)
    ).eval()
    state = seeded_state({name: tuple(value.shape) for name, value in made.state_dict().items()})
    made.load_state_dict({name: value.long() if name.endswith("tracked") else value for name, value in state.items()})
    return made


def path(file: Path, layout: str, newer: bool, **values: object) -> SimpleNamespace:
    """What the public methods want of a separator."""
    folder = Path(nets.__file__).parent / "modelparams"
    parameters = import_module(f"{PUBLIC}.vr_network.model_param_init").ModelParameters(str(folder / f"{layout}.json"))
    return SimpleNamespace(
        model_params=parameters,
        is_vr_51_model=newer,
        torch_device_mps=None,
        high_end_process=False,
        wav_subtype="FLOAT",
        audio_file_path=str(file),
        logger=logging.getLogger("public"),
        batch_size=1,
        enable_tta=False,
        enable_post_process=False,
        input_high_end_h=None,
        **values,
    )


def main() -> None:
    found = {}
    with torch.no_grad():
        for name, (arguments, _, bins, frames) in CASES.items():
            found[name] = every(network(arguments, bins)(magnitudes(bins, frames)).numpy())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "wave.wav"
        for layout, (newer, rate, hop) in BANDS.items():
            soundfile.write(file, waves(40 * hop)[0].T.numpy(), rate, subtype="FLOAT")
            state = path(file, layout, newer)
            spectrum = separator.loading_mix(state)
            found[f"{layout}/spectrum"] = every(spectrum)
            found[f"{layout}/wave"] = every(separator.spec_to_wav(state, spectrum))
        for name, (arguments, config, stem) in PATHS.items():
            soundfile.write(file, path_wave()[0].T.numpy(), 44100, subtype="FLOAT")
            state = path(
                file,
                config["layout"],
                True,
                model_run=network(arguments, 672),
                window_size=config["window"],
                primary_stem_name=stem,
            )
            split = state.model_params.param["band"][1]["crop_stop"]
            level = {"value": config["aggression"] / 100, "split_bin": split, "aggr_correction": None}
            stems = separator.inference_vr(state, separator.loading_mix(state), torch.device("cpu"), level)
            found[name] = every(np.stack([separator.spec_to_wav(state, part) for part in stems]))
    found = {name: value if np.iscomplexobj(value) else value.astype(np.float32) for name, value in found.items()}
    np.savez_compressed(HERE / "vr.npz", version=version("audio-separator"), **found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
