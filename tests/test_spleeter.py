"""Spleeter: against the public package on TensorFlow, against the specification in NumPy, and cut into segments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow_writer as writer
import torch

from unmixcli.checkpoint import build_model, load_model
from unmixcli.errors import CheckpointError
from unmixcli.models.spleeter import Spleeter
from unmixcli.options import Options
from unmixcli.pipeline import model_grid
from unmixcli.postfilters.spectra import load_norbert
from unmixcli.segment import cut
from unmixcli.tensorflow_bundle import read_bundle
from unmixcli.user_models import add_model

RECORDED = Path(__file__).parent / "references" / "spleeter.npz"
CASES = ("2stems", "4stems", "5stems", "2stems-wide", "2stems-mwf")
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    with np.load(RECORDED) as file:
        return {name: file[name] for name in file.files}


def config_of(recorded: Mapping[str, Any], name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(str(recorded[f"{name}/config"]))
    return config


def state_of(recorded: Mapping[str, Any], name: str) -> State:
    name = name if f"{name}/index" in recorded else "2stems"
    index, data = (memoryview(recorded[f"{name}/{key}"].tobytes()) for key in ("index", "data"))
    return read_bundle(index, {(0, 1): data})


def build(config: Mapping[str, Any], state: State, stems: list[str] | None = None) -> Spleeter:
    model = Spleeter.from_config(config, stems or config["instrument_list"])
    model.load_state_dict(Spleeter.convert_state(config, {"archive": state}), strict=True)
    return model.eval()


def random_state(config: Mapping[str, Any], seed: int = 0) -> State:
    """Published names and shapes, seeded values."""
    generator = torch.Generator().manual_seed(seed)
    widths = (2, *config["conv_n_filters"])
    up = (*widths[-2:0:-1], 1)
    inputs = (widths[-1], *(2 * width for width in up[:-1]))
    state: State = {"global_step": torch.tensor(9)}

    def name(kind: str, number: int) -> str:
        return f"{kind}_{number}" if number else kind

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    for j in range(len(config["instrument_list"])):
        layers = [("conv2d", 7 * j + i, (5, 5, widths[i], widths[i + 1]), widths[i + 1]) for i in range(6)]
        layers.append(("conv2d", 7 * j + 6, (4, 4, 1, 2), 2))
        layers += [("conv2d_transpose", 6 * j + i, (5, 5, up[i], inputs[i]), up[i]) for i in range(6)]
        for kind, number, shape, width in layers:
            state[name(kind, number) + "/kernel"] = noise(*shape) * (2 / np.prod(shape[:3])) ** 0.5
            state[name(kind, number) + "/bias"] = 0.2 * noise(width)
        for i, width in enumerate((*widths[1:], *up)):
            norm = name("batch_normalization", 12 * j + i)
            state |= {f"{norm}/gamma": 1 + 0.3 * noise(width), f"{norm}/beta": 0.2 * noise(width)}
            state |= {f"{norm}/moving_mean": 0.2 * noise(width), f"{norm}/moving_variance": noise(width).exp()}
    return state


class TestPackage:
    """What `spleeter` 2.4.2 gives; recorded in steps of 2**-15."""

    @pytest.mark.parametrize("name", CASES)
    def test_waveforms(self, recorded: dict[str, Any], name: str) -> None:
        estimates, expected = self.both(recorded, name)
        assert expected.abs().max() > 0.2
        # their Wiener filter is single precision, where little is left of a covariance's determinant
        torch.testing.assert_close(estimates, expected, atol=2e-3 if name.endswith("mwf") else 1e-4, rtol=0)

    def test_wiener_filter_in_single_precision(self, recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        norbert = load_norbert()

        def wiener(v: np.ndarray, x: np.ndarray, iterations: int) -> np.ndarray:
            return norbert.wiener(v.astype(np.float32), x.astype(np.complex64), iterations)

        monkeypatch.setattr("unmixcli.models.spleeter.load_norbert", lambda: SimpleNamespace(wiener=wiener))
        estimates, expected = self.both(recorded, "2stems-mwf")
        torch.testing.assert_close(estimates, expected, atol=1e-4, rtol=0)

    @staticmethod
    def both(recorded: dict[str, Any], name: str) -> tuple[torch.Tensor, torch.Tensor]:
        model = build(config_of(recorded, name), state_of(recorded, name))
        mixture, expected = (
            torch.from_numpy(recorded[f"{name}/{key}"]).float() / 32768 for key in ("mixture", "estimates")
        )
        return model(mixture[None])[0], expected


# ---------------------------------------------------------------- the specification, step by step, in double precision


def convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, stride: int = 1, dilation: int = 1) -> np.ndarray:
    """TensorFlow's "same": x [height, width, in], kernel [k, k, in, out]."""
    reach = (kernel.shape[0] - 1) * dilation + 1
    sizes = [-(-length // stride) for length in x.shape[:2]]
    total = [max((n - 1) * stride + reach - length, 0) for n, length in zip(sizes, x.shape[:2], strict=True)]
    padded = np.pad(x, [*((t // 2, t - t // 2) for t in total), (0, 0)])
    out = np.zeros((*sizes, kernel.shape[3])) + bias
    for i in range(kernel.shape[0]):
        for k in range(kernel.shape[1]):
            rows = padded[i * dilation :: stride][: sizes[0]]
            out += rows[:, k * dilation :: stride][:, : sizes[1]] @ kernel[i, k]
    return out


def transposed(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """TensorFlow's "same" with stride 2: kernel [5, 5, out, in]."""
    height, width = x.shape[:2]
    whole = np.zeros((2 * height + 3, 2 * width + 3, kernel.shape[2]))
    for i in range(5):
        for k in range(5):
            whole[i : i + 2 * height : 2, k : k + 2 * width : 2] += x @ kernel[i, k].T
    return whole[1:-2, 1:-2] + bias


def activation(name: str, x: np.ndarray) -> np.ndarray:
    below = {"ReLU": 0 * x, "LeakyReLU": 0.2 * x, "ELU": np.expm1(np.minimum(x, 0))}[name]
    return np.where(x > 0, x, below)


def network(config: Mapping[str, Any], state: Mapping[str, np.ndarray], j: int, x: np.ndarray) -> np.ndarray:
    """Logits of instrument j, [512, 1024, 2] -> the same."""

    def layer(kind: str, number: int, *names: str) -> list[np.ndarray]:
        return [state[f"{kind}_{number}/{name}" if number else f"{kind}/{name}"] for name in names]

    def norm(number: int, x: np.ndarray) -> np.ndarray:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = layer("batch_normalization", 12 * j + number, *names)
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    skips = []
    for i in range(6):
        x = convolve(x, *layer("conv2d", 7 * j + i, "kernel", "bias"), stride=2)
        skips.append(x)
        x = activation(config.get("conv_activation", "LeakyReLU"), norm(i, x))
    x = skips.pop()
    for i in range(6):
        x = transposed(x, *layer("conv2d_transpose", 6 * j + i, "kernel", "bias"))
        x = norm(6 + i, activation(config.get("deconv_activation", "ReLU"), x))
        if skips:
            x = np.concatenate([skips.pop(), x], -1)
    return convolve(x, *layer("conv2d", 7 * j + 6, "kernel", "bias"), dilation=2)


def specification(config: Mapping[str, Any], state: State, mixture: np.ndarray) -> np.ndarray:
    """[C, T] -> [S, C, T], after the published description."""
    size, hop, count, bins = (config[key] for key in ("frame_length", "frame_step", "T", "F"))
    weights = {name: tensor.double().numpy() for name, tensor in state.items()}
    signal = np.pad(mixture.astype(float), ((0, 0), (size, 0)))
    frames = -(-signal.shape[1] // hop)
    signal = np.pad(signal, ((0, 0), (0, (frames - 1) * hop + size - signal.shape[1])))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    x = np.stack([np.fft.rfft(signal[:, n * hop : n * hop + size] * window).T for n in range(frames)])  # [N, F, C]
    padded = np.pad(x, ((0, -frames % count), (0, 0), (0, 0)))
    masks = []
    for start in range(0, len(padded), count):
        magnitude = np.abs(padded[start : start + count, :bins])
        logits = np.stack([network(config, weights, j, magnitude) for j in range(len(config["instrument_list"]))])
        if config.get("type") == "unet.softmax_unet":
            share = np.exp(logits - logits.max(0))
            outputs = share / share.sum(0) * magnitude
        else:
            outputs = magnitude / (1 + np.exp(-logits))
        powers = outputs**2
        masks.append((powers + 1e-10 / len(powers)) / (powers.sum(0) + 1e-10))
    mask = np.pad(np.concatenate(masks, 1), ((0, 0), (0, 0), (0, size // 2 + 1 - bins), (0, 0)))
    estimates = np.zeros((len(mask), *signal.shape))
    for n in range(frames):
        piece = np.fft.irfft(np.moveaxis(mask[:, n] * x[n], 1, 2), n=size) * window
        estimates[..., n * hop : n * hop + size] += piece * 2 / 3
    return estimates[..., size : size + mixture.shape[1]]


SMALL: dict[str, Any] = {"frame_length": 256, "frame_step": 64, "T": 64, "F": 64, "sample_rate": 8000}
SMALL |= {"conv_n_filters": [3, 2, 4, 3, 5, 4], "instrument_list": ["vocals", "drums", "other"]}
ELU = {"conv_activation": "ELU", "deconv_activation": "ELU"}


class TestSpecification:
    @pytest.mark.parametrize(
        "changes", [{}, ELU, ELU | {"type": "unet.softmax_unet"}, {"T": 128}], ids=["sigmoid", "elu", "softmax", "long"]
    )
    def test_small(self, changes: dict[str, Any], rng: np.random.Generator) -> None:
        config = SMALL | changes
        mixture = (0.2 * rng.standard_normal((2, 4501))).astype(np.float32)
        state = random_state(config)
        estimates = build(config, state)(torch.from_numpy(mixture)[None])[0].numpy()
        expected = specification(config, state, mixture)
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(estimates, expected, atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("instruments", [2, 5])
    def test_published_size(self, instruments: int, rng: np.random.Generator) -> None:
        config = {"frame_length": 4096, "frame_step": 1024, "T": 512, "F": 1024, "sample_rate": 44100}
        config |= {"conv_n_filters": [16, 32, 64, 128, 256, 512], "instrument_list": list("vpdbo")[:instruments]}
        config |= ELU | {"type": "unet.softmax_unet"} if instruments == 5 else {}
        mixture = (0.2 * rng.standard_normal((2, 600_000))).astype(np.float32)
        state = random_state(config)
        estimates = build(config, state)(torch.from_numpy(mixture)[None])[0].numpy()
        np.testing.assert_allclose(estimates, specification(config, state, mixture), atol=1e-4)


# windows of 512 frames, but short ones and few filters
LONG = SMALL | {"T": 512, "conv_n_filters": [2, 2, 2, 2, 2, 2]}


@pytest.fixture(scope="module")
def model() -> Spleeter:
    return build(LONG, random_state(LONG))


class TestSegments:
    def test_only_the_head_of_the_next_window_matters(self, model: Spleeter, rng: np.random.Generator) -> None:
        window = model.segment_multiple
        segment = torch.from_numpy(rng.standard_normal((1, 2, model.segment_length)).astype(np.float32)) * 0.1
        used = slice(window, -window)
        # one sample more, and it is no segment: everything is computed
        whole = model(torch.nn.functional.pad(segment, (0, 1)))[..., :-1]
        found = model(segment)
        assert torch.equal(found[..., used], whole[..., used])
        assert whole[..., : window // 2].abs().mean() > 0.01
        assert found[..., : window // 2].abs().max() == 0, "the window before is computed for nothing"
        assert found[..., -window // 4 :].abs().max() == 0, "the end of the window behind is computed for nothing"

    @pytest.mark.parametrize("extra", [-1, 0, 1, 40_000])
    def test_in_segments_as_in_one(self, model: Spleeter, extra: int, rng: np.random.Generator) -> None:
        grid = model_grid(model, Options(model="x"))
        length = 2 * grid.used + extra
        mixture = torch.from_numpy(rng.standard_normal((1, 2, length)).astype(np.float32)) * 0.1
        parts = [
            model(segment.mixture)[..., segment.offset : segment.offset + segment.used]
            for segment in cut(mixture.split(50_000, -1), grid)
            if segment.mixture is not None
        ]
        assert len(parts) == 2 + (extra > 0)
        torch.testing.assert_close(torch.cat(parts, -1), model(mixture), atol=1e-6, rtol=0)

    def test_batch_and_asked_stems(self, model: Spleeter, rng: np.random.Generator) -> None:
        state = random_state(LONG)
        mixture = torch.from_numpy(rng.standard_normal((2, 2, 9000)).astype(np.float32))
        some = build(LONG, state, ["other", "vocals"])
        assert not some.covers_mixture
        assert model.covers_mixture
        torch.testing.assert_close(some(mixture), model(mixture)[:, [2, 0]], atol=1e-6, rtol=0)

    def test_masks_share_the_mixture_out(self, rng: np.random.Generator) -> None:
        config = SMALL | {"F": 128, "mask_extension": "average", "T": 64}
        mixture = torch.from_numpy(rng.standard_normal((1, 2, 5000)).astype(np.float32))
        total = build(config, random_state(config))(mixture).sum(1)
        torch.testing.assert_close(total, mixture, atol=2e-5, rtol=0)


class TestConfig:
    def test_published_json(self, recorded: dict[str, Any]) -> None:
        config = config_of(recorded, "5stems") | {"train_csv": "path", "learning_rate": 1e-4, "random_seed": 8}
        flat = {key: value for key, value in config.items() if key not in ("model", "instrument_list")}
        flat |= {"type": "unet.softmax_unet", **config["model"]["params"], "instruments": config["instrument_list"]}
        state = state_of(recorded, "5stems")
        mixture = torch.randn(1, 2, 3000, generator=torch.Generator().manual_seed(0))
        one, other = build(config, state), build(flat, state, ["vocals", "piano", "drums", "bass", "other"])
        assert torch.equal(one(mixture), other(mixture))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"depth": 6}, "has no depth"),
            ({"model": {"params": {"dropout": 1}}}, "has no dropout"),
            ({"model": "unet"}, "model is 'unet'"),
            ({"model": {"type": "blstm.blstm"}}, "type is 'blstm.blstm'"),
            ({"type": "blstm.blstm"}, "expected unet.unet or unet.softmax_unet"),
            ({"T": 500}, "T is 500, expected a multiple of 64"),
            ({"T": "512"}, "T is '512'"),
            ({"F": 2112}, "F is 2112"),
            ({"frame_step": 512}, "frame_step is 512, expected a quarter of 4096"),
            ({"n_channels": 1}, "n_channels is 1, expected 2"),
            ({"conv_n_filters": [16, 32]}, "expected 6 widths"),
            ({"conv_n_filters": [16, 32, 64, 128, 256, -1]}, "expected 6 widths"),
            ({"separation_exponent": 0}, "separation_exponent is 0"),
            ({"separation_exponent": True}, "separation_exponent is True"),
            ({"mask_extension": "ones"}, "mask_extension is 'ones', expected zeros or average"),
            ({"mask_extension": []}, "mask_extension"),
            ({"conv_activation": "GELU"}, "conv_activation is 'GELU'"),
            ({"MWF": 1}, "MWF is 1"),
            ({"instruments": "vocals"}, "expected a list of names"),
            ({"instruments": ["drums"]}, "no stem vocals"),
        ],
    )
    def test_refused(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            Spleeter.from_config(changes, ["vocals"])

    def test_without_memory(self) -> None:
        with torch.device("meta"):
            model = Spleeter.from_config({}, ["vocals", "accompaniment"])
        assert all(parameter.is_meta for parameter in model.parameters())
        assert (model.sample_rate, model.segment_multiple) == (44100, 512 * 1024)


class TestWeights:
    def broken(self, message: str, state: State, config: Mapping[str, Any] = SMALL) -> None:
        with pytest.raises(CheckpointError, match=message):
            Spleeter.convert_state(config, {"archive": state})

    def test_fitting(self) -> None:
        state = random_state(SMALL)
        self.broken("conv2d_20/kernel is missing", {k: v for k, v in state.items() if k != "conv2d_20/kernel"})
        self.broken("batch_normalization_5/gamma is missing", state | {"x": state.pop("batch_normalization_5/gamma")})
        state = random_state(SMALL)
        wrong = state["conv2d_transpose_1/kernel"].transpose(2, 3)
        self.broken(r"conv2d_transpose_1/kernel has the shape", state | {"conv2d_transpose_1/kernel": wrong})
        self.broken("hold conv2d_21/kernel", state | {"conv2d_21/kernel": torch.zeros(1)})
        self.broken("2 instruments", state, SMALL | {"instrument_list": ["vocals", "drums"]})

    def test_from_an_archive_to_a_model(self, tmp_path: Path, recorded: dict[str, Any]) -> None:
        """`unmix models add 2stems.tar.gz --config 2stems.json --architecture spleeter`."""
        config = config_of(recorded, "2stems")
        path, settings = tmp_path / "2stems.tar.gz", tmp_path / "2stems.json"
        names = {"index": "model.index", "data": "model.data-00000-of-00001"}
        path.write_bytes(writer.archive({names[key]: recorded[f"2stems/{key}"].tobytes() for key in names}))
        settings.write_text(json.dumps(config))
        stems = ("vocals", "accompaniment")
        added = add_model([str(path)], architecture="spleeter", config=settings, stems=stems, name="mine")
        model = load_model(added.entry, offline=True)
        mixture = torch.from_numpy(recorded["2stems/mixture"]).float() / 32768
        expected = torch.from_numpy(recorded["2stems/estimates"]).float() / 32768
        torch.testing.assert_close(model(mixture[None])[0], expected, atol=1e-4, rtol=0)
        meta = build_model(added.entry, config=config, stems=stems, states={"archive": state_of(recorded, "2stems")})
        assert torch.equal(meta(mixture[None]), model(mixture[None]))
