"""Record quantized.npz: two small layers packed by the public package, and what it unpacks them to.

Not part of the tests. It needs `diffq` 0.2.4:

    python tests/references/record_quantized.py
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from diffq import DiffQuantizer

if __name__ == "__main__":
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
    quantizer = DiffQuantizer(network, group_size=8, min_size=0.001, float16=True)
    with torch.no_grad():
        for parameter in quantizer._qparams:
            parameter.logit.uniform_(-6, 2)  # 2 to 13 bits
    state = quantizer.get_quantized_state(packed=True)
    quantizer.restore_quantized_state(state)
    (tables, extremes, widths), *others = state["quantized"]
    assert not others
    stored = {f"table_{bits}": table.numpy() for bits, table in enumerate(tables, start=1) if table is not None}
    stored |= {f"small_{number}": tensor.numpy() for number, tensor in enumerate(state["float16"])}
    stored |= {
        f"expected/{name}": value.detach().numpy() for name, value in network.named_parameters() if "_diffq" not in name
    }
    np.savez_compressed(
        Path(__file__).with_name("quantized.npz"),
        version=version("diffq"),
        extremes=np.array(extremes),
        widths=widths.numpy(),
        **stored,
    )
