"""What every architecture promises the pipeline (models/base.py), with configurations small enough to be quick.

A new architecture needs a row in `SMALL`; the first test fails until it has one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unmixcli.models import ARCHITECTURES, architecture_class
from unmixcli.models.base import SeparationModel

_UMX = {"hidden_size": 8, "nb_layers": 2, "nfft": 256, "nhop": 64, "max_bin": 90, "nb_output_bins": 129}
_UMX |= {"wiener_win_len": 10, "targets": ["vocals", "drums", "bass"]}
_TDC = {
    "n_fft": 256,
    "hop": 128,
    "dim_t": 8,
    "internal_channels": 4,
    "num_blocks": 5,
    "layers_per_block": 2,
    "trim": 60,
}
_TASNET = {"N": 8, "L": 10, "B": 6, "H": 12, "X": 3, "R": 2}
_D = {"channels": 8, "depth": 3, "norm_starts": 1, "norm_groups": 2, "dconv_attn": 2, "dconv_lstm": 2}
_H = {"channels": 8, "nfft": 256, "depth": 4, "norm_starts": 2, "norm_groups": 2, "dconv_attn": 2, "dconv_lstm": 2}
_HT = {"channels": 4, "nfft": 256, "depth": 3, "t_layers": 2, "t_heads": 2, "dconv_comp": 2, "segment": "1/21"}
_SCNET: dict[str, Any] = {"dims": [4, 8, 12], "nfft": 256, "hop_size": 64, "win_size": 256, "num_dplayer": 2}
_TCN: dict[str, Any] = {"n_fft": 256, "hop": 64, "max_bin": 90, "hidden": 8, "blocks": 2}
_UNET: dict[str, Any] = {"n_fft": 256, "hop": 64, "max_bin": 128, "hidden": 4, "growth": 4, "blocks": 2}
_BANDS: dict[str, Any] = {"n_fft": 256, "hop": 64, "bands": 12, "hidden": 8, "blocks": 3, "level": 4}
_VR: dict[str, Any] = {
    "layout": {
        "sample_rate": 8000,
        "bins": 64,
        "bands": [
            {"sample_rate": 4000, "hop": 16, "n_fft": 64, "crop": [0, 31], "low_pass": [24, 30]},
            {"sample_rate": 8000, "hop": 32, "n_fft": 64, "crop": [12, 33], "high_pass": [15, 12]},
        ],
    }
}
_MDX: dict[str, Any] = {
    "n_fft": 256,
    "hop_length": 32,
    "dim_f": 128,
    "dim_t": 64,
    "g": 4,
    "L": 5,
    "primary_stem": "Vocals",
}
_MDX23C: dict[str, Any] = {
    "n_fft": 256, "hop_length": 64, "dim_f": 128, "num_channels": 4, "growth": 4, "num_scales": 2, "num_subbands": 4,
    "norm": "InstanceNorm", "chunk_size": 4032, "instruments": ["Vocals", "Drums"],
}  # fmt: skip
_ROFORMER: dict[str, Any] = {
    "dim": 8, "depth": 2, "heads": 2, "dim_head": 4, "stereo": True, "stft_n_fft": 256, "stft_win_length": 256,
    "stft_hop_length": 55,
}  # fmt: skip
_BS_ROFORMER = _ROFORMER | {"freqs_per_bands": [9, 20, 100]}
_SPLEETER: dict[str, Any] = {"frame_length": 256, "frame_step": 64, "T": 64, "F": 64}
_SPLEETER |= {"conv_n_filters": [2, 2, 3, 3, 4, 4], "instruments": ["vocals", "drums", "bass"]}

_XUMX: dict[str, Any] = {"hidden_size": 8, "nb_layers": 2, "in_chan": 256, "window_length": 256, "n_hop": 64}
_XUMX |= {"max_bin": 90, "wiener_win_len": 10, "sources": ["bass", "drums", "vocals"]}

_NMF: dict[str, Any] = {"n_fft": 256, "hop": 64, "atoms": 4, "iterations": 5, "sources": ["vocals", "accompaniment"]}

_BANDIT: dict[str, Any] = {"n_bands": 9, "n_sqm_modules": 1, "emb_dim": 8, "rnn_dim": 6, "mlp_dim": 10}
_BANDIT |= {"n_fft": 256, "hop_length": 64, "stems": ["speech", "music"]}

_APOLLO: dict[str, Any] = {"sr": 8000, "feature_dim": 16, "layer": 1}

_META: dict[str, Any] = {"N": 8, "B": 8, "H": 8, "E_1": 4, "E_2": 3, "layers": 2, "stack": 1, "num_mels": 2}
_WAVE_PYTORCH: dict[str, Any] = {"features": 8, "levels": 3, "strides": 2, "output_size": 0.1}
_WAVE: dict[str, Any] = {"num_layers": 3, "num_initial_filters": 4, "filter_size": 5, "merge_filter_size": 3}

_FRAMES: dict[str, Any] = {"n_fft": 256, "hop": 64, "sample_rate": 8000}

# architecture -> (config, stems) to build
SMALL: dict[str, list[tuple[dict[str, Any], tuple[str, ...]]]] = {
    "open_unmix": [
        (_UMX | {"niter": 0}, ("drums",)),
        (_UMX | {"niter": 1}, ("vocals", "bass")),
        (_UMX | {"niter": 2, "softmask": True, "residual": True}, ("vocals", "drums", "bass", "residual")),
        (_UMX | {"nb_channels": 1, "unidirectional": True}, ("vocals", "drums", "bass")),
    ],
    "x_umx": [
        (_XUMX | {"niter": 0}, ("drums",)),
        (_XUMX, ("bass", "vocals")),
        (_XUMX | {"nb_channels": 1, "bidirectional": False}, ("drums", "vocals")),
    ],
    "tdc_unet": [(_TDC, ("vocals",)), (_TDC | {"channels": 1}, ("vocals",))],
    "demucs": [
        (_D, ("drums", "vocals")),
        (_D | {"resample": False, "normalize": False, "audio_channels": 1, "lstm_layers": 1}, ("vocals",)),
    ],
    "demucs_v1": [({"channels": 4, "depth": 3}, ("drums", "vocals"))],
    "demucs_v2": [
        ({"channels": 4, "depth": 3}, ("drums", "vocals")),
        ({"channels": 4, "depth": 2, "audio_channels": 1}, ("vocals",)),
    ],
    "conv_tasnet": [
        (_TASNET, ("drums", "vocals")),
        (_TASNET | {"audio_channels": 1, "sources": ["drums", "vocals"]}, ("vocals",)),
    ],
    "demucs_bag": [
        (
            {
                "members": {
                    "a": {"architecture": "demucs", "config": _D},
                    "b": {"architecture": "hdemucs", "config": _H},
                },
                "segment": "1/21",
            },
            ("drums", "vocals"),
        ),
        (
            {
                "members": {
                    "a": {"architecture": "htdemucs", "config": _HT},
                    "b": {"architecture": "htdemucs", "config": _HT},
                },
                "weights": {"a": {"drums": 1}, "b": {"vocals": 2}},
            },
            ("drums", "vocals"),
        ),
    ],
    "hdemucs": [
        (_H, ("drums", "vocals")),
        (_H | {"sources": ["drums", "vocals"], "cac": False, "wiener_iters": 1}, ("vocals",)),
        (_H | {"multi_freqs": [0.25, 0.5], "norm_starts": 3, "audio_channels": 1}, ("drums", "vocals")),
    ],
    "htdemucs": [(_HT, ("drums", "vocals")), (_HT | {"bottom_channels": 24, "audio_channels": 1}, ("vocals",))],
    "tcn_masks": [
        (_TCN, ("vocals", "other")),
        (_TCN | {"channels": 1, "targets": ["vocals", "drums", "other"]}, ("drums",)),
    ],
    "band_masks": [
        (_BANDS, ("vocals", "other")),
        (_BANDS | {"channels": 1, "targets": ["vocals", "drums", "other"]}, ("drums",)),
    ],
    "unet_masks": [
        (_UNET, ("vocals", "other")),
        (_UNET | {"channels": 1, "targets": ["vocals", "drums", "other"]}, ("drums",)),
    ],
    "vr": [
        (_VR | {"network": 31191, "window": 272}, ("vocals",)),
        (_VR | {"nout": 8, "nout_lstm": 8, "window": 144}, ("instrumental", "vocals")),
    ],
    "mdx_net": [
        (_MDX, ("vocals",)),
        (_MDX | {"compensate": 1.1, "denoise": True, "l": 2}, ("vocals", "instrumental")),
    ],
    "mdx23c": [
        (_MDX23C, ("vocals", "drums")),
        (_MDX23C | {"target_instrument": "Drums", "norm": "GroupNorm2", "act": "relu", "scale": [1, 2]}, ("drums",)),
        (_MDX23C | {"act": "elu1.0", "normalize": True, "num_blocks_per_scale": 1}, ("drums",)),
    ],
    "onnx_spectrogram": [],  # needs onnxruntime: tests/test_mdx_net.py
    "bs_roformer": [
        (_BS_ROFORMER, ("vocals",)),
        (_BS_ROFORMER | {"instruments": ["vocals", "drums"], "linear_transformer_depth": 1}, ("drums",)),
        (_BS_ROFORMER | {"stereo": False, "skip_connection": True, "heads": 1}, ("vocals", "drums")),
    ],
    "mel_band_roformer": [
        (_ROFORMER | {"num_bands": 10}, ("vocals",)),
        (_ROFORMER | {"num_bands": 10, "stereo": False, "normalize": True}, ("vocals", "drums")),
    ],
    "bandit_v2": [
        (_BANDIT | {"rnn_type": "GRU"}, ("speech", "music")),
        (_BANDIT | {"instruments": ["voice", "music"], "bidirectional": False}, ("voice",)),
    ],
    "apollo": [(_APOLLO, ("restored",)), (_APOLLO | {"sr": 11000, "layer": 2, "normalize": True}, ("restored",))],
    "scnet": [
        (_SCNET | {"sources": ["drums", "vocals"]}, ("drums", "vocals")),
        (_SCNET | {"dims": [2, 8, 12], "audio_channels": 1, "instruments": ["drums", "vocals"]}, ("vocals",)),
    ],
    "scnet_masked": [(_SCNET, ("drums", "vocals"))],
    "spleeter": [
        (_SPLEETER, ("vocals", "drums", "bass")),
        (_SPLEETER | {"type": "unet.softmax_unet", "F": 128, "mask_extension": "average"}, ("drums",)),
        (_SPLEETER | {"MWF": True}, ("drums", "bass")),
    ],
    "repet": [({}, ("vocals", "accompaniment"))],
    "meta_tasnet": [
        (_META | {"stages_num": 1}, ("drums", "bass", "other", "vocals")),
        (_META | {"independent_params": True, "stages_num": 2}, ("vocals",)),
    ],
    "wave_unet_pytorch": [
        (_WAVE_PYTORCH, ("drums", "vocals")),
        (_WAVE_PYTORCH | {"separate": 0, "res": "learned", "channels": 1}, ("vocals",)),
    ],
    "wave_unet": [
        (_WAVE, ("accompaniment", "vocals")),
        (_WAVE | {"context": True, "output_type": "difference", "upsampling": "learned"}, ("drums", "vocals")),
        (_WAVE | {"context": True, "mono_downmix": False, "conditioning": "stack"}, ("drums", "vocals")),
    ],
    "bytesep": [
        ({"widths": [2, 3, 4, 4, 3, 2], "targets": ["vocals", "accompaniment"]}, ("vocals", "accompaniment")),
        (
            {
                "model_type": "MobileNet_Subbandtime",
                "widths": [4, 2, 3, 3, 4, 5],
                "input_channels": 1,
                "output_channels": 1,
            },
            ("vocals",),
        ),
    ],
    "drnn": [
        (_FRAMES | {"hidden": 12}, ("accompaniment", "vocals")),
        (_FRAMES | {"hidden": 12, "variant": "srnn", "context": 5, "mask": "square"}, ("vocals",)),
        (_FRAMES | {"hidden": 12, "variant": "dnn", "context": 1, "targets": ["drums", "bass", "rest"]}, ("bass",)),
    ],
    "gru_masks": [(_FRAMES | {"hidden": 12}, ("accompaniment", "vocals"))],
    "vpnn": [
        (_FRAMES | {"hidden": 12}, ("accompaniment", "vocals")),
        (_FRAMES | {"hidden": 12, "vector": "window", "activation": "relu"}, ("vocals",)),
    ],
    "frame_masks": [(_FRAMES, ("vocals", "accompaniment")), (_FRAMES, ("accompaniment",))],
    "lstm_masks": [
        (_FRAMES, ("vocals", "accompaniment")),
        (_FRAMES | {"cell": "gru", "targets": ["drums", "rest"]}, ("drums",)),
    ],
    "repet_sim": [({}, ("vocals", "accompaniment"))],
    "ft2d": [({}, ("vocals", "accompaniment"))],
    "rpca": [({}, ("vocals", "accompaniment"))],
    "nmf": [({"iterations": 10}, ("component_1", "component_2", "component_3", "component_4"))],
    "nmf_supervised": [
        (_NMF, ("vocals", "accompaniment")),
        (_NMF | {"learnt": ["accompaniment"], "beta": 0.0, "channels": 1}, ("vocals",)),
    ],
    "ica": [({}, ("source_1", "source_2"))],
    "pca": [({}, ("source_1", "source_2"))],
    "spectral_subtraction": [({}, ("clean", "noise"))],
    "harmonic_percussive": [({}, ("drums", "rest"))],
    "centre_extraction": [({}, ("centre", "sides"))],
    "classical_stems": [({}, ("vocals", "drums", "other"))],
}
CASES = [
    pytest.param(name, config, stems, id=f"{name}-{number}")
    for name, builds in SMALL.items()
    for number, (config, stems) in enumerate(builds)
]


def build(name: str, config: dict[str, Any], stems: tuple[str, ...]) -> SeparationModel:
    torch.manual_seed(0)
    model = architecture_class(name).from_config(config, stems).eval()
    for parameter in model.parameters():  # a model without its weights need not hold anything in particular
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def music(model: SeparationModel, batch: int, length: int) -> torch.Tensor:
    """Tones and noise in a common level, [batch, C, length]; items differ."""
    generator = torch.Generator().manual_seed(1)
    t = torch.arange(length) / model.sample_rate
    tones = torch.stack([torch.sin(2 * torch.pi * 220 * (b + 1) * t) for b in range(batch)])
    noise = torch.randn(batch, model.channels, length, generator=generator)
    return 0.2 * tones[:, None] + 0.05 * noise


def test_every_architecture_is_here() -> None:
    ours = {name for name, place in ARCHITECTURES.items() if place.startswith("unmixcli.")}  # other tests add toys
    assert set(SMALL) == ours


@pytest.mark.parametrize(("name", "config", "stems"), CASES)
class TestContract:
    def test_data_for_the_pipeline(self, name: str, config: dict[str, Any], stems: tuple[str, ...]) -> None:
        model = build(name, config, stems)
        assert model.stems == stems
        assert model.channels in (1, 2)
        assert model.sample_rate > 0
        assert model.segment_length > 2 * model.edge >= 0
        assert 0 <= model.overlap < 1
        assert model.segment_multiple >= 1
        assert model.edge_padding in ("reflect", "zero", "none")
        assert model.normalization in ("none", "track", "level")
        assert model.max_batch >= 1
        assert not (model.fixed_segment and model.edge_padding == "none")
        if model.segment_multiple > 1 and model.edge_padding == "none":
            # a segment begins `edge` before a multiple: its own grid is the track's only if edge is one as well
            assert model.edge % model.segment_multiple == 0

    @pytest.mark.parametrize("length", [1, 2, 63, 1000, 4097])
    def test_shape_and_finite(self, name: str, config: dict[str, Any], stems: tuple[str, ...], length: int) -> None:
        model = build(name, config, stems)
        mixture = music(model, 1, length)
        before = mixture.clone()
        estimates = model(mixture)
        assert estimates.shape == (1, len(stems), model.channels, length)
        assert estimates.dtype == torch.float32
        assert torch.isfinite(estimates).all()
        assert torch.equal(mixture, before), "the input was edited"

    def test_silence(self, name: str, config: dict[str, Any], stems: tuple[str, ...]) -> None:
        model = build(name, config, stems)
        assert torch.isfinite(model(torch.zeros(1, model.channels, 3001))).all()

    def test_deterministic_and_items_of_a_batch_apart(
        self, name: str, config: dict[str, Any], stems: tuple[str, ...]
    ) -> None:
        model = build(name, config, stems)
        mixture = music(model, 3, 5001)
        together = model(mixture)
        assert torch.equal(model(mixture), together)
        alone = torch.cat([model(item[None]) for item in mixture])
        torch.testing.assert_close(
            alone, together, atol=1e-5, rtol=0
        )  # matrix products of another size round otherwise
        assert not torch.allclose(together[0], together[1], atol=1e-4), "the items of the batch gave one result"

    def test_no_gradients_are_kept(self, name: str, config: dict[str, Any], stems: tuple[str, ...]) -> None:
        model = build(name, config, stems)
        with torch.inference_mode():
            assert not model(music(model, 1, 500)).requires_grad
