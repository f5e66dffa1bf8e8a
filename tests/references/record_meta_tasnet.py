"""Record what the public Meta-TasNet (`pfnet-research/meta-tasnet`) gives: checkpoints and waveforms of each stage.

    PYTHONPATH=CHECKOUT python tests/references/record_meta_tasnet.py    # writes meta_tasnet.npz beside this file

Needs torch and a checkout of the repository in which `torch.stft` is called with `return_complex=True` and its result
given to `torch.view_as_real`, as the call of 2019 no longer runs. The weights are random, the container is the
published one with its `argparse.Namespace`. The tests need no checkout.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from model.tasnet import MultiTasNet

SMALL = {
    "N": 16, "L": 20, "W": 20, "B": 8, "H": 8, "E_1": 4, "E_2": 3, "layers": 2, "stack": 2, "kernel": 3, "filters": 3,
    "num_mels": 2, "sampling_rate": 8000, "stages_num": 3, "residual_bias": False, "independent_params": False,
    "dropout": 0.0, "batch_size": 12, "learning_rate": 1e-3, "directory": "./checkpoints/x", "checkpoint": None,
    "similarity_loss_weight": 2.0, "dissimilarity_loss_weight": 3.0, "reconstruction_loss_weight": 0.05,
}  # fmt: skip
CASES = {"generated": {}, "independent": {"independent_params": True, "residual_bias": True, "stages_num": 2}}


def record(changes: dict[str, object], seed: int) -> dict[str, np.ndarray]:
    torch.manual_seed(seed)
    args = argparse.Namespace(**{**SMALL, **changes})
    network = MultiTasNet(args).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("std"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5).mul_(16).round_().div_(16)
        elif not name.endswith("window"):
            # in coarse steps: the file is smaller
            torch.nn.init.normal_(parameter, std=0.3).mul_(16).round_().div_(16)
    signals = [torch.randn(1, 1, 800 * 2**stage).mul_(64).round_().div_(64) for stage in range(args.stages_num)]
    with torch.no_grad():
        outputs = network.inference(signals, n_chunks=1)
    file = io.BytesIO()
    optimiser = {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]}
    checkpoint = {"epoch": 3, "state_dict": network.state_dict(), "optimizer": optimiser, "steps": 7, "args": args}
    torch.save(checkpoint, file)
    found = {"checkpoint": np.frombuffer(file.getvalue(), np.uint8)}
    for stage, (signal, output) in enumerate(zip(signals, outputs, strict=True)):
        found |= {f"signal{stage}": signal[0, 0].numpy(), f"output{stage}": output[0, :, 0].numpy()}
    return found


if __name__ == "__main__":
    arrays: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for seed, (name, changes) in enumerate(CASES.items()):
            arrays |= {f"{name}/{key}": value for key, value in record(changes, seed).items()}
    np.savez_compressed(Path(__file__).with_name("meta_tasnet.npz"), **arrays)
