"""Time of one chunk: MDX-Net against onnxruntime, MDX23C against audio-separator's copy of the public network.

    pip install onnxruntime && pip install --no-deps audio-separator
    python docs/benchmarks/mdx_net.py [--pairs 3] [--networks hq3 kuielab mdx23c] [--threads N] [--workers]

Networks have the published shapes (UVR-MDX-NET-Inst_HQ_3, kuielab_a, MDX23C-8KFFT-InstVoc_HQ) and seeded random
weights: time doesn't depend on what they hold. Both sides transform, run the network and transform back, with the same
number of threads, in turn, so that whatever else the machine does meets both; processor seconds are given beside wall
seconds. The public transform of MDX-Net is torch's, as audio-separator calls it. The largest difference of the two
results is given relative to their standard deviation, and for MDX23C as it is.

With `--workers` ours alone is timed on as many chunks as there are threads: one after the other with all threads, all
at once in one batch, and side by side with one thread each (what `cpu_workers` means).
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from mdx_toys import MDXNetFile, seeded_state  # noqa: E402

from unmixcli.device import cpu_count  # noqa: E402
from unmixcli.models.base import SeparationModel  # noqa: E402
from unmixcli.models.mdx23c import MDX23C  # noqa: E402
from unmixcli.models.mdx_net import MDXNet  # noqa: E402
from unmixcli.onnx_read import ONNX_FILE  # noqa: E402

MDX_NET = {
    "hq3": {"n_fft": 6144, "dim_f": 3072, "dim_t": 256, "g": 48, "L": 11},
    "kuielab": {"n_fft": 6144, "dim_f": 2048, "dim_t": 512, "g": 32, "L": 11},
}
INST_VOC = {
    "n_fft": 8192, "hop_length": 1024, "dim_f": 4096, "num_channels": 128, "growth": 128, "num_scales": 5,
    "scale": [2, 2], "num_subbands": 4, "num_blocks_per_scale": 2, "bottleneck_factor": 4, "norm": "InstanceNorm",
    "act": "gelu", "chunk_size": 261120, "instruments": ["vocals", "instrumental"],
}  # fmt: skip
Run = Callable[[Tensor], Tensor]


def mdx_net(name: str) -> tuple[SeparationModel, Callable[[], Run]]:
    """Ours, and what makes onnxruntime's."""
    shape = MDX_NET[name]
    data = MDXNetFile(**{key: shape[key] for key in ("dim_f", "dim_t", "g", "L")}).data
    config = {**shape, "primary_stem": "vocals"}
    state = {"checkpoint": {ONNX_FILE: torch.frombuffer(bytearray(data), dtype=torch.uint8)}}
    model = MDXNet.from_config(config, ("vocals",)).eval()
    model.load_state_dict(MDXNet.convert_state(config, state))

    def public() -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        n_fft, bins = shape["n_fft"], shape["dim_f"]
        window = torch.hann_window(n_fft)

        def run(sound: Tensor) -> Tensor:
            spectra = torch.stft(sound[0], n_fft, 1024, window=window, return_complex=True)
            parts = torch.view_as_real(spectra).permute(0, 3, 1, 2).reshape(1, 4, n_fft // 2 + 1, -1)[:, :, :bins]
            parts = parts.contiguous()
            parts[:, :, :3] = 0
            found = torch.from_numpy(session.run(None, {"input": parts.numpy()})[0])
            full = torch.nn.functional.pad(found, (0, 0, 0, n_fft // 2 + 1 - bins)).view(2, 2, n_fft // 2 + 1, -1)
            numbers = torch.complex(full[:, 0], full[:, 1])
            return torch.istft(numbers, n_fft, 1024, window=window)[None, None]

        return run

    return model, public


def mdx23c(_: str) -> tuple[SeparationModel, Callable[[], Run]]:
    """Ours, and what makes audio-separator's."""
    model = MDX23C.from_config(INST_VOC, ("vocals", "instrumental")).eval()
    state = seeded_state({name: tuple(value.shape) for name, value in model.state_dict().items()})
    model.load_state_dict(state)

    def public() -> Run:
        from audio_separator.separator.uvr_lib_v5.tfc_tdf_v3 import TFC_TDF_net

        settings: Any = SimpleNamespace(
            model=SimpleNamespace(**INST_VOC),
            audio=SimpleNamespace(**{**INST_VOC, "num_channels": 2}),
            training=SimpleNamespace(target_instrument=None, instruments=INST_VOC["instruments"]),
        )
        network = TFC_TDF_net(settings, torch.device("cpu")).eval()
        network.load_state_dict(state)
        return network

    return model, public


def timed(run: Run, sound: Tensor) -> tuple[float, float, Tensor]:
    """Wall seconds, processor seconds and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        result = run(sound)
    return time.perf_counter() - wall, time.process_time() - cpu, result


def compare(name: str, model: SeparationModel, public: Run, pairs: int) -> None:
    """Print a table of runs in turn, after one of each that isn't counted."""
    sound = 0.1 * torch.randn(1, 2, model.segment_length, generator=torch.Generator().manual_seed(0))
    expected, found = timed(public, sound)[2], timed(model, sound)[2]
    difference = (found - expected).abs().max()
    print(f"\n{name}: {model.segment_length / model.sample_rate:.1f} s of audio, {torch.get_num_threads()} threads")
    print(f"largest difference {difference:.1e}, standard deviation of the result {expected.std():.1e}\n")
    print("| pair | public s | CPU s | ours s | CPU s | times faster | times less CPU |\n|---|---|---|---|---|---|---|")
    walls, processors = [], []
    for pair in range(pairs):
        slow, slow_cpu, _ = timed(public, sound)
        quick, quick_cpu, _ = timed(model, sound)
        walls.append(slow / quick)
        processors.append(slow_cpu / quick_cpu)
        print(
            f"| {pair + 1} | {slow:.2f} | {slow_cpu:.2f} | {quick:.2f} | {quick_cpu:.2f} "
            f"| {walls[-1]:.2f} | {processors[-1]:.2f} |",
            flush=True,
        )
    print(f"\nmedian: {median(walls):.2f} times faster, {median(processors):.2f} times less processor time")


def workers(name: str, model: SeparationModel, pairs: int) -> None:
    """Print how long some chunks take, run in three ways."""
    threads = torch.get_num_threads()
    chunks = 0.1 * torch.randn(threads, 2, model.segment_length, generator=torch.Generator().manual_seed(0))

    def alone(chunk: Tensor) -> None:
        torch.set_num_threads(1)  # of this worker
        model(chunk[None])

    print(f"\n{name}: {threads} chunks\n\n| round | in turn s | one batch s | side by side s |\n|---|---|---|---|")
    for number in range(pairs):
        row = []
        for way in ("in turn", "batch", "side by side"):
            started = time.perf_counter()
            if way == "in turn":
                for chunk in chunks:
                    model(chunk[None])
            elif way == "batch":
                model(chunks)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(alone, chunks))
            row.append(time.perf_counter() - started)
            torch.set_num_threads(threads)
        print(f"| {number + 1} | " + " | ".join(f"{seconds:.2f}" for seconds in row) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=(*MDX_NET, "mdx23c"), default=["hq3", "mdx23c"])
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--workers", action="store_true", help="compare ways to run some chunks instead")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", message="stft with return_complex=False")
    for name in arguments.networks:
        model, public = mdx23c(name) if name == "mdx23c" else mdx_net(name)
        if arguments.workers:
            workers(name, model, arguments.pairs)
        else:
            compare(name, model, public(), arguments.pairs)


if __name__ == "__main__":
    main()
