"""Record demucs.npz or demucs_old.npz: small networks of the family with seeded weights, run by the public package.

Not part of the tests. It needs `demucs` with einops, julius, openunmix and diffq, once 4.1.0 for versions 3 and 4, once
2.0.3 for the older ones:

    python tests/references/record_demucs.py

Weights and mixture follow from seeds (`tests/demucs_toys.py`), so only the outputs are stored.
"""

import sys
import types
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from demucs_toys import CASES, arguments, mixture, seeded_state  # noqa: E402

for name in ("torchaudio", "sphn"):  # imported there, not needed here
    if find_spec(name) is None:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)


OLD = version("demucs").startswith("2.")
OLD_CLASSES = ("demucs.model.Demucs", "demucs.tasnet.ConvTasNet")
MINE = [case for case, values in CASES.items() if (values[0] in OLD_CLASSES) == OLD]


def record(case: str) -> np.ndarray:
    """The public network's output, [1, S, C, T]."""
    module, _, attribute = CASES[case][0].rpartition(".")
    network = getattr(import_module(module), attribute)(**arguments(case)).eval()
    state = seeded_state({key: tuple(value.shape) for key, value in network.state_dict().items()})
    network.load_state_dict({key: value.float() for key, value in state.items()})
    heard = mixture()
    if case == "demucs_v1":  # the second version's code is the first one's but for these two things
        network.resample = False
        heard = heard * (1 + 1e-5)
    with torch.no_grad():
        if OLD:
            return import_module("demucs.utils").apply_model(network, heard[0], shifts=0, split=False)[None].numpy()
        return network(heard).numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    outputs = {case: record(case) for case in MINE}
    np.savez_compressed(HERE / ("demucs_old.npz" if OLD else "demucs.npz"), version=version("demucs"), **outputs)
