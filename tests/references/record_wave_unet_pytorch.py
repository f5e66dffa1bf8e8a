"""Record what the public Wave-U-Net-Pytorch (commit b4d8d01) gives: checkpoints and waveforms.

    PYTHONPATH=CHECKOUT python tests/references/record_wave_unet_pytorch.py    # writes wave_unet_pytorch.npz

Needs torch and a checkout of `f90/Wave-U-Net-Pytorch` as it stood when its weights were published. The weights are
random, the container is the published one, once as `DataParallel` writes it. The tests need no checkout.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model.waveunet import Waveunet

SMALL: dict[str, Any] = {
    "features": 8,
    "levels": 3,
    "strides": 2,
    "kernel_size": 5,
    "output_size": 60 / 8000,
    "sr": 8000,
}
VOICE = ["accompaniment", "vocals"]
CASES: dict[str, dict[str, Any]] = {
    "separate": {"instruments": VOICE},
    "joint": {"instruments": VOICE, "separate": 0, "feature_growth": "add", "strides": 4, "channels": 1},
    "learned": {"instruments": ["vocals"], "res": "learned", "conv_type": "bn"},
    "normal": {"instruments": ["vocals"], "res": "learned", "conv_type": "normal", "strides": 4},
}


def record(config: dict[str, Any], seed: int, prefix: str) -> dict[str, np.ndarray]:
    torch.manual_seed(seed)
    values = {"separate": 1, "feature_growth": "double", "channels": 2, "conv_type": "gn", "res": "fixed", **config}
    growth = [2**level if values["feature_growth"] == "double" else level + 1 for level in range(values["levels"])]
    network = Waveunet(
        values["channels"], [values["features"] * factor for factor in growth], values["channels"],
        values["instruments"], kernel_size=values["kernel_size"],
        target_output_size=int(values["output_size"] * values["sr"]), conv_type=values["conv_type"], res=values["res"],
        separate=bool(values["separate"]), depth=1, strides=values["strides"],
    ).eval()  # fmt: skip
    for name, tensor in network.state_dict().items():
        if not name.endswith((".filter", "num_batches_tracked")):
            tensor.copy_(torch.randn(tensor.shape).mul(0.15).add(1 if name.endswith("running_var") else 0))
    mixture = torch.randn(1, values["channels"], network.input_size) * 0.3
    if values["separate"]:
        estimates = [network(mixture, name)[name][0] for name in values["instruments"]]
    else:
        estimates = [network(mixture)[name][0] for name in values["instruments"]]
    file = io.BytesIO()
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    training = {"step": 9, "worse_epochs": 0, "epochs": 1, "best_loss": 0.1}
    torch.save({"model_state_dict": state, "optimizer_state_dict": {"state": {}}, "state": training}, file)
    return {
        "config": np.array(json.dumps(config)),
        "checkpoint": np.frombuffer(file.getvalue(), np.uint8),
        "mixture": mixture[0].numpy(),
        "estimates": torch.stack(estimates).numpy(),
    }


if __name__ == "__main__":
    found: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for seed, (name, config) in enumerate(CASES.items()):
            one = record({**SMALL, **config}, seed, "module." if name == "joint" else "")
            found |= {f"{name}/{key}": value for key, value in one.items()}
    np.savez_compressed(Path(__file__).with_name("wave_unet_pytorch.npz"), **found)
