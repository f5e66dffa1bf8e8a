"""Record what the public Wave-U-Net (`f90/Wave-U-Net`, TensorFlow 1) gives: checkpoints and waveforms.

    PYTHONPATH=CHECKOUT python tests/references/record_wave_unet.py    # writes wave_unet.npz beside this file

Needs `tensorflow-cpu==2.15.1`, whose `compat.v1` stands in for TensorFlow 1, and a checkout of the repository. Weights
are random; the files that hold them are TensorFlow's own, with the optimiser's variables. The tests need neither.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_eager_execution()
sys.modules["tensorflow"] = tf
from Models.UnetAudioSeparator import UnetAudioSeparator  # noqa: E402

SIZES = {"num_layers": 3, "num_initial_filters": 4, "filter_size": 5, "merge_filter_size": 3, "num_frames": 64}
VOICE, FOUR = ["accompaniment", "vocals"], ["bass", "drums", "other", "vocals"]
CASES: dict[str, dict[str, Any]] = {
    "m1": {"source_names": VOICE},
    "m1-learned": {"source_names": VOICE, "upsampling": "learned", "mono_downmix": False},
    "m2": {"source_names": VOICE, "output_type": "difference"},
    "m3": {"source_names": VOICE, "output_type": "difference", "context": True},
    "m5": {"source_names": VOICE, "output_type": "difference", "context": True, "mono_downmix": False,
           "upsampling": "learned"},
    "m6": {"source_names": FOUR, "output_type": "difference", "context": True, "mono_downmix": False},
    "direct": {"source_names": FOUR, "context": True},
}  # fmt: skip


def record(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = {"upsampling": "linear", "output_type": "direct", "context": False, "mono_downmix": True, **config}
    count = len(config["source_names"])
    with tf.Graph().as_default(), tf.Session() as session, tempfile.TemporaryDirectory() as folder:
        network = UnetAudioSeparator(
            values["num_layers"], values["num_initial_filters"], values["upsampling"], values["output_type"],
            values["context"], count, values["mono_downmix"], values["filter_size"], values["merge_filter_size"],
        )  # fmt: skip
        heard, given = network.get_padding(np.array([1, values["num_frames"], 0]))
        mixture = tf.placeholder(tf.float32, [int(size) for size in heard])
        outputs = network.get_output(mixture, training=False, reuse=False)
        step = tf.get_variable("global_step", [], initializer=tf.zeros_initializer(), trainable=False, dtype=tf.int64)
        with tf.variable_scope("separator_solver"):
            loss = tf.add_n([tf.reduce_sum(output**2) for output in outputs])
            tf.train.AdamOptimizer(1e-4).minimize(loss, global_step=step)
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables():
            shape = variable.shape.as_list()
            scale = (2 / np.prod(shape[:-1])) ** 0.5 if len(shape) == 3 else 0.3
            session.run(variable.assign(rng.standard_normal(shape) * scale))
        wave = (rng.standard_normal(mixture.shape.as_list()) * 0.2).astype(np.float32)
        estimates = session.run(outputs, {mixture: wave})
        tf.train.Saver(write_version=tf.train.SaverDef.V2).save(session, f"{folder}/model", write_meta_graph=False)
        files = {path.suffix: np.frombuffer(path.read_bytes(), np.uint8) for path in Path(folder).glob("model.*")}
    assert int(given[1]) == estimates[0].shape[1]
    return {
        "config": np.array(json.dumps(config)),
        "index": files[".index"],
        "data": files[".data-00000-of-00001"],
        "mixture": wave[0].T,
        "estimates": np.stack([estimate[0].T for estimate in estimates]),
    }


if __name__ == "__main__":
    found: dict[str, np.ndarray] = {}
    for seed, (name, config) in enumerate(CASES.items()):
        found |= {f"{name}/{key}": value for key, value in record({**SIZES, **config}, seed).items()}
    np.savez_compressed(Path(__file__).with_name("wave_unet.npz"), **found)
