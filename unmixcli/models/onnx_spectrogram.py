"""Any ONNX graph that maps a stereo spectrum to a stem's, run by onnxruntime (the extra `onnx`).

For files that hold another network than `mdx_net` reads: one input [b, 4, dim_f, dim_t] (real and imaginary part of the
left channel, then of the right one), one output of the same sizes. Signal path and settings are MDX-Net's
(`mdx_protocol.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unmixcli.errors import CheckpointError, ModelError
from unmixcli.models.mdx_protocol import SpectrogramModel, read_signal, rename
from unmixcli.onnx_read import ONNX_FILE, read_graph

logger = logging.getLogger(__name__)

_HINT = 'pip install "unmixcli[onnx]"'


class OnnxSpectrogram(SpectrogramModel):
    """See the module. Segments always have `dim_t` frames, which many such files fix.

    Raises:
        CheckpointError: settings it can't be built with.
    """

    fixed_segment = True

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__("onnx_spectrogram", config, stems, {})
        self.frame_multiple = self.values["dim_t"]
        self._file = b""
        self._session: Any = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> OnnxSpectrogram:
        """See `SeparationModel`. Keys: primary_stem and those of `mdx_protocol.py`; n_fft must be given."""
        return cls(config, stems)

    @classmethod
    def complete_config(cls, config: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The config with the bins and frames that the graph's input states and it lacks."""
        inputs = next(iter(settings.values()), {}).get("onnx", {}).get("inputs", {})
        sizes: list[int | None] = next(iter(inputs.values()), []) if len(inputs) == 1 else []
        found = {"dim_f": sizes[2], "dim_t": sizes[3]} if len(sizes) == 4 else {}
        return {**{name: value for name, value in found.items() if isinstance(value, int)}, **rename(config)}

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The file, as it is; its graph must have the sizes in the config.

        Raises:
            CheckpointError: it is no ONNX file, or takes and gives something else than such spectra.
        """
        state = super().convert_state(config, states)
        if set(state) != {ONNX_FILE}:
            raise CheckpointError("these weights are no ONNX file.")
        values = read_signal("onnx_spectrogram", config, {})
        graph = read_graph(state[ONNX_FILE].numpy().data)
        expected = (None, 4, values["dim_f"], values["dim_t"])
        for what, found in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            sizes = next(iter(found.values()), ())
            if (
                len(found) != 1
                or len(sizes) != 4
                or any(size not in (None, wanted) for size, wanted in list(zip(sizes, expected, strict=True))[1:])
            ):
                raise CheckpointError(
                    f"the ONNX graph's {what} are {dict(list(found.items())[:4])}, expected one of sizes {expected}.",
                    hint="dim_f and dim_t in the config must be the file's.",
                )
        return {"_extra_state": state[ONNX_FILE]}

    def get_extra_state(self) -> Tensor:
        """The ONNX file; torch keeps it in the state dict."""
        return torch.frombuffer(bytearray(self._file), dtype=torch.uint8) if self._file else torch.empty(0)

    def set_extra_state(self, state: Tensor) -> None:
        """See `get_extra_state`."""
        self._file = state.numpy().tobytes()
        self._session = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}  # a session can't be copied; the copy makes its own

    def network(self, x: Tensor) -> Tensor:
        """[b, n, f, 4] -> the same shape.

        Raises:
            CheckpointError: onnxruntime is not installed, or can't read the file.
            ModelError: it can't run it on this input.
        """
        if self._session is None:
            self._session = _session(self._file, x.device)
        session = self._session
        # one item at a time: many files fix the batch
        items = [item[None].cpu().numpy() for item in x.permute(0, 3, 2, 1).contiguous()]
        try:
            results = [session.run(None, {session.get_inputs()[0].name: item})[0] for item in items]
        except Exception as error:  # its exceptions have no common base of their own
            raise ModelError(f"onnxruntime failed: {str(error)[:300]}") from error
        y = torch.cat([torch.as_tensor(result) for result in results]).to(x.device)
        if y.shape != (x.shape[0], x.shape[3], x.shape[2], x.shape[1]):
            raise ModelError(f"the ONNX graph gave the shape {tuple(y.shape)}, expected that of its input.")
        return y.permute(0, 3, 2, 1)


def _session(file: bytes, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(
            f"this model runs in onnxruntime, which is not installed ({error}).", hint=_HINT
        ) from error
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    elif device.type != "cpu":
        logger.warning("onnxruntime has no provider for %s here; the network runs on the CPU.", device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(file, options, providers=providers)
    except Exception as error:  # its exceptions have no common base of their own
        raise CheckpointError(f"onnxruntime can't read the file: {str(error)[:300]}") from error
