"""Record mdx.npz: small MDX-Nets run by onnxruntime, small MDX23Cs run by audio-separator's copy of the public network.

Not part of the tests. It needs `onnxruntime`, and `audio-separator` (0.47.1 was used; only its `tfc_tdf_v3.py`):

    python tests/references/record_mdx.py

Weights and inputs follow from seeds (`tests/mdx_toys.py`), so only the outputs are stored.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import torch
from audio_separator.separator.uvr_lib_v5.tfc_tdf_v3 import TFC_TDF_net

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from mdx_toys import MDX23C_CASES, MDX_NET_CASES, mdx_net_file, mixture, seeded_state, spectrum  # noqa: E402


def run_onnx(case: str) -> np.ndarray:
    """onnxruntime's output; half-precision files are run as the float32 ones with the same numbers."""
    changes = {"dtype": "float32", "rounded": True} if "dtype" in MDX_NET_CASES[case] else {}
    session = onnxruntime.InferenceSession(mdx_net_file(case, **changes), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": spectrum()})[0]


def run_public(case: str) -> np.ndarray:
    """The public network's output, [1, S, 2, T]."""
    config = MDX23C_CASES[case]
    target = config.get("target_instrument")
    settings = SimpleNamespace(
        model=SimpleNamespace(**config),
        audio=SimpleNamespace(**{**config, "num_channels": 2}),
        training=SimpleNamespace(target_instrument=target, instruments=config["instruments"]),
    )
    network = TFC_TDF_net(settings, torch.device("cpu")).eval()
    network.load_state_dict(seeded_state({name: tuple(v.shape) for name, v in network.state_dict().items()}))
    with torch.no_grad():
        output = network(mixture(config["chunk_size"]))
    return output.view(1, -1, 2, config["chunk_size"]).numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    outputs = {f"mdx_net_{case}": run_onnx(case) for case in MDX_NET_CASES}
    outputs |= {f"mdx23c_{case}": run_public(case) for case in MDX23C_CASES}
    for name, values in outputs.items():
        print(name, values.shape, float(values.std()))  # noqa: T201
    versions = f"onnxruntime {onnxruntime.__version__}, audio-separator {version('audio-separator')}"
    np.savez_compressed(HERE / "mdx.npz", version=versions, **outputs)
