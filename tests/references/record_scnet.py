"""Record scnet.npz: small SCNets with seeded weights, run by the public package.

Not part of the tests. It needs `msst` 0.1.0, of which only the networks' own files are imported:

    pip install --no-deps msst && python tests/references/record_scnet.py

Weights and mixture follow from seeds (`tests/scnet_toys.py`), so only the outputs are stored.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from msst.models.scnet.scnet import SCNet
from msst.models.scnet.scnet_masked import SCNet as SCNetMasked

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from scnet_toys import CASES, LENGTHS, mixture, state_of  # noqa: E402

CLASSES = {"scnet": SCNet, "scnet_masked": SCNetMasked}


def record(case: str) -> np.ndarray:
    """The public network's output, [1, S, C, T]."""
    architecture, arguments = CASES[case]
    network = CLASSES[architecture](**arguments).eval()
    network.load_state_dict(state_of({key: tuple(value.shape) for key, value in network.state_dict().items()}))
    with torch.no_grad():
        return network(mixture(arguments.get("audio_channels", 2), LENGTHS[case])).numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    outputs = {case: record(case) for case in CASES}
    np.savez_compressed(HERE / "scnet.npz", version=version("msst"), **outputs)
