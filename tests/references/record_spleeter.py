"""Record what the public package `spleeter` 2.4.2 gives, on TensorFlow 2.15: weights files and waveforms.

    python tests/references/record_spleeter.py            # writes spleeter.npz beside this file
    python tests/references/record_spleeter.py --full DIR # the published size: DIR/NAME.tar.gz and DIR/NAME.npz

Needs `tensorflow-cpu==2.15.1`, `norbert`, `pandas` and `spleeter` (`pip install --no-deps spleeter==2.4.2`). The
weights are random; the files that hold them are TensorFlow's own. The tests need none of these packages.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import spleeter.model as package
import tensorflow as tf

tf1 = tf.compat.v1
SMALL: dict[str, Any] = {
    "mix_name": "mix", "sample_rate": 8000, "n_channels": 2, "frame_length": 256, "frame_step": 64, "T": 64, "F": 64,
    "separation_exponent": 2, "mask_extension": "zeros",
}  # fmt: skip
PUBLISHED = {**SMALL, "sample_rate": 44100, "frame_length": 4096, "frame_step": 1024, "T": 512, "F": 1024}
FILTERS = {"conv_n_filters": [2, 2, 3, 3, 4, 4]}
ELU = {"conv_activation": "ELU", "deconv_activation": "ELU"}
TWO, FOUR = ["vocals", "accompaniment"], ["vocals", "drums", "bass", "other"]
FIVE = ["vocals", "piano", "drums", "bass", "other"]


def case(instruments: list[str], kind: str, params: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {"instrument_list": instruments, "model": {"type": kind, "params": params}, **other}


CASES = {
    "2stems": case(TWO, "unet.unet", {}),
    "4stems": case(FOUR, "unet.unet", ELU),
    "5stems": case(FIVE, "unet.softmax_unet", ELU),
    "2stems-wide": case(TWO, "unet.unet", {}, F=128, mask_extension="average", separation_exponent=1),
    "2stems-mwf": case(TWO, "unet.unet", {}, MWF=True),
}


def randomise(session: Any, rng: np.random.Generator) -> None:
    """Weights that keep signals at their size, and statistics that are not those of a fresh normalisation."""
    values = {}
    for variable in tf1.global_variables():
        shape = variable.shape.as_list()
        if variable.name.endswith("kernel:0"):
            value = rng.standard_normal(shape) * (2 / (shape[0] * shape[1] * shape[2])) ** 0.5
        elif variable.name.endswith(("variance:0", "gamma:0")):
            value = rng.uniform(0.6, 1.6, shape)
        else:
            value = rng.standard_normal(shape) * 0.2
        values[variable.initializer.inputs[1]] = value
    session.run([variable.initializer for variable in tf1.global_variables()], values)


def run(params: dict[str, Any], waveform: np.ndarray, folder: Path, seed: int) -> np.ndarray:
    """Weights to `folder`, and the estimates [S, C, T] of a waveform [T, C]."""
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.train.get_or_create_global_step()
        placeholder = tf1.placeholder(tf.float32, [None, 2])
        outputs = package.EstimatorSpecBuilder({"waveform": placeholder}, params).outputs
        randomise(session, np.random.default_rng(seed))
        tf1.train.Saver().save(session, str(folder / "model"))
        estimates = session.run([outputs[name] for name in params["instrument_list"]], {placeholder: waveform})
    return np.stack([np.asarray(wave).T for wave in estimates])


def music(length: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Tones that come and go and noise, [T, 2], in steps of 2**-15."""
    t = np.arange(length) / rate
    tones = sum(np.sin(2 * np.pi * f * rate * t) * (1 + np.sin(2 * np.pi * g * t)) for f, g in ((0.01, 1.3), (0.03, 3)))
    left = 0.15 * tones + 0.1 * rng.standard_normal(length)
    stereo = np.stack([left, 0.4 * left + 0.1 * rng.standard_normal(length)], 1)
    return (np.round(stereo * 32768) / 32768).astype(np.float32)


def archive(folder: Path) -> bytes:
    """The folder as a .tar.gz like the published ones."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for path in sorted(folder.iterdir()):
            file.add(path, arcname=f"./{path.name}")
    return buffer.getvalue()


def record(base: dict[str, Any], samples: int, filters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    recorded = {}
    for seed, (name, changes) in enumerate(CASES.items()):
        kind, params = changes["model"]["type"], {**changes["model"]["params"], **filters}
        params = {**base, **changes, "model": {"type": kind, "params": params}}
        # the filter of the package sees the whole track, ours one window
        length = (params["T"] - 4) * params["frame_step"] if params.get("MWF") else samples
        waveform = music(length, params["sample_rate"], np.random.default_rng(100 + seed))
        with tempfile.TemporaryDirectory() as folder:
            estimates = run(params, waveform, Path(folder), len(params["instrument_list"]))
            (Path(folder) / "model.meta").unlink()  # the graph: the larger part, and nothing in it is read
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
            recorded[name] = {
                "config": json.dumps(params), "mixture": waveform.T, "estimates": estimates,
                "index": files["model.index"], "data": files["model.data-00000-of-00001"],
                "archive": archive(Path(folder)),
            }  # fmt: skip
    return recorded


def main() -> None:
    if sys.argv[1:2] == ["--full"]:
        folder = Path(sys.argv[2])
        CASES["2stems-wide"]["F"] = 1536
        for name, values in record(PUBLISHED, 30 * 44100, {}).items():
            (folder / f"{name}.tar.gz").write_bytes(values["archive"])
            np.savez(folder / f"{name}.npz", **{key: values[key] for key in ("config", "mixture", "estimates")})
        return
    arrays = {}
    for name, values in record(SMALL, 4500, FILTERS).items():  # 75 frames: a window and a part of one
        for key in ("config", "mixture", "estimates", "index", "data"):
            value = values[key]
            if key in ("index", "data") and name not in ("2stems", "4stems", "5stems"):
                continue  # the weights of 2stems
            if key in ("mixture", "estimates"):  # in steps of 2**-15, a tenth of what the tests allow
                value = np.round(value * 32768).astype(np.int16)
            arrays[f"{name}/{key}"] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.array(value)
    np.savez_compressed(Path(__file__).with_name("spleeter.npz"), **arrays)


if __name__ == "__main__":
    main()
