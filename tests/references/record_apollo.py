"""Record apollo.npz: small Apollo networks with seeded weights, run by the public package.

Not part of the tests. It needs `msst` 0.1.0, of which only the network's own files are imported:

    pip install --no-deps msst && python tests/references/record_apollo.py

Weights and mixture follow from seeds (`tests/apollo_toys.py`), so only names, shapes and outputs are stored.
"""

import importlib
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from apollo_toys import CASES, LENGTHS, mixture, state_of  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(1)
    public = importlib.import_module("msst.models.look2hear.models.apollo").Apollo
    outputs = {"version": version("msst")}
    for case, arguments in CASES.items():
        network = public(**arguments).eval()
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict(state_of(shapes), strict=False)
        outputs[f"{case}/names"] = np.array(list(shapes))
        outputs[f"{case}/shapes"] = np.array([" ".join(map(str, shape)) for shape in shapes.values()])
        with torch.no_grad():
            outputs[case] = network(mixture(2, LENGTHS[case])).numpy()
    np.savez_compressed(HERE / "apollo.npz", **outputs)
