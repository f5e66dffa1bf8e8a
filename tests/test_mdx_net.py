"""MDX-Net: its ONNX files against onnxruntime's output, the signal path, the second stem, graphs that are others."""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mdx_toys import MDX_NET, MDX_NET_CASES, mdx_net_file, mixture, spectrum

from unmixcli.checkpoint import load_model, read_checkpoint
from unmixcli.errors import CheckpointError, ModelError
from unmixcli.models.mdx_net import MDXNet
from unmixcli.models.mdx_protocol import SpectrogramModel, rename
from unmixcli.models.onnx_spectrogram import OnnxSpectrogram
from unmixcli.onnx_read import ONNX_FILE
from unmixcli.user_models import add_model

REFERENCES = Path(__file__).parent / "references" / "mdx.npz"
SIGNAL: dict[str, Any] = {"n_fft": 160, "hop_length": 32, "primary_stem": "Vocals"}  # not a whole number of hops
BOTH = ("vocals", "instrumental")


def state_of(data: bytes) -> dict[str, dict[str, torch.Tensor]]:
    return {"checkpoint": {ONNX_FILE: torch.frombuffer(bytearray(data), dtype=torch.uint8)}}


def build(case: str = "folded", *, stems: tuple[str, ...] = ("vocals",), **settings: Any) -> MDXNet:
    config = {**MDX_NET, **MDX_NET_CASES[case], **SIGNAL, **settings}
    config = {name: value for name, value in config.items() if name not in ("folded", "keep", "dtype", "raw")}
    model = MDXNet.from_config(config, stems).eval()
    model.load_state_dict(MDXNet.convert_state(config, state_of(mdx_net_file(case))))
    return model


def run(model: SpectrogramModel, values: np.ndarray) -> np.ndarray:
    """The network on a spectrum as ONNX has it, [1, 4, f, n]."""
    with torch.inference_mode():
        return model.network(torch.from_numpy(values).permute(0, 3, 2, 1)).permute(0, 3, 2, 1).numpy()


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("case", MDX_NET_CASES)
def test_the_output_is_onnxruntime_s(case: str) -> None:
    expected = np.load(REFERENCES)[f"mdx_net_{case}"]
    assert expected.std() > 0.1
    np.testing.assert_allclose(run(build(case), spectrum()), expected, atol=3e-6)


@pytest.mark.parametrize("cached", [1, 64 * 6 * 3, 64 * 6 * 15])
@pytest.mark.parametrize("case", ["folded", "float_data"])
def test_pieces_of_frames_make_the_same_output(case: str, cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmixcli.models.tfc_tdf._CACHED", cached)
    np.testing.assert_allclose(run(build(case), spectrum()), np.load(REFERENCES)[f"mdx_net_{case}"], atol=3e-6)


def test_the_input_of_the_network_stays() -> None:
    model = build()
    x = torch.from_numpy(spectrum()).permute(0, 3, 2, 1).contiguous()
    before = x.clone()
    with torch.inference_mode():
        model.network(x)
    assert torch.equal(x, before)


def test_weights_of_the_published_shapes() -> None:
    # parameters of the published files; of each normalisation that is left, 4 per channel there are 2 here
    for g, blocks, bins, expected in (
        (48, 11, 3072, 16_681_348),  # HQ_1..3, Kim, Voc_FT
        (48, 11, 2560, 14_760_132),  # HQ_4, HQ_5
        (32, 11, 2048, 7_418_628),  # kuielab
        (32, 9, 2048, 5_476_996),  # kuielab_b_drums
    ):
        with torch.device("meta"):
            model = MDXNet.from_config(
                {**SIGNAL, "n_fft": 6144, "g": g, "L": blocks, "dim_f": bins, "dim_t": 256}, BOTH
            )
        gains = sum(value.numel() for name, value in model.named_parameters() if name.endswith("gain"))
        assert sum(value.numel() for value in model.parameters()) + 2 * gains == expected


def test_the_file_tells_its_sizes(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(mdx_net_file("unfolded"))
    settings = {"checkpoint": read_checkpoint(path).settings}
    found = MDXNet.complete_config(SIGNAL, settings)
    assert found == {**SIGNAL, "dim_f": 64, "dim_t": 16, "g": 4, "L": 3, "l": 2, "k": 3, "bn": 8}
    assert MDXNet.complete_config({**SIGNAL, "g": 7}, settings)["g"] == 7
    assert MDXNet.complete_config(SIGNAL, {"checkpoint": {}}) == SIGNAL
    for odd in (
        {},
        {"inputs": {}, "layers": [["MatMul", [3]]]},
        {"inputs": {"x": [1]}, "layers": [["MatMul", [0, 0]]]},
    ):
        assert MDXNet.complete_config(SIGNAL, {"checkpoint": {"onnx": odd}}) == SIGNAL


def test_uvr_s_names_of_settings() -> None:
    uvr = {"compensate": 1.035, "mdx_dim_f_set": 2048, "mdx_dim_t_set": 8, "mdx_n_fft_scale_set": 6144}
    assert rename(uvr) == {"compensate": 1.035, "dim_f": 2048, "dim_t": 256, "n_fft": 6144}
    model = MDXNet.from_config({**uvr, "primary_stem": "Vocals", "is_karaoke": False, "g": 4}, ("vocals",))
    assert (model.segment_length, model.edge, model.bins) == (1024 * 255, 3072, 2048)


# ---------------------------------------------------------------- the signal path


def plain(model: MDXNet, sound: torch.Tensor) -> torch.Tensor:
    """The published signal path of one whole chunk, in its own words."""
    n_fft, hop = model.values["n_fft"], model.hop
    window = torch.hann_window(n_fft, periodic=True)
    spectra = torch.stft(sound[0], n_fft, hop, window=window, center=True, return_complex=True)
    parts = torch.view_as_real(spectra).permute(0, 3, 1, 2).reshape(1, 4, -1, spectra.shape[-1])[:, :, : model.bins]
    parts = parts.clone()
    parts[:, :, :3] = 0
    result = torch.from_numpy(run(model, parts.contiguous().numpy()))
    full = torch.zeros(1, 4, n_fft // 2 + 1, result.shape[-1])
    full[:, :, : model.bins] = result
    numbers = torch.view_as_complex(full.view(2, 2, -1, result.shape[-1]).permute(0, 2, 3, 1).contiguous())
    return torch.istft(numbers, n_fft, hop, window=window, center=True)[None]


def test_the_signal_path_is_the_published_one() -> None:
    model = build()
    sound = mixture(model.segment_length)
    assert model.segment_length == 32 * 15
    torch.testing.assert_close(model(sound)[:, 0], plain(model, sound), atol=2e-6, rtol=0)


def test_the_lowest_bins_are_not_heard() -> None:
    model = build()
    t = torch.arange(model.segment_length)
    low = torch.sin(2 * torch.pi * t / 160 * 0.5).expand(1, 2, -1)
    seen = []
    model.network = lambda x: seen.append(x.clone()) or x  # type: ignore[method-assign]
    model(low)
    assert seen[0][:, :, :3].abs().max() == 0
    assert seen[0][:, :, 3:].abs().max() > 0


def test_what_the_pipeline_is_told() -> None:
    model = build()
    assert (model.segment_length, model.edge, model.overlap, model.edge_padding) == (480, 80, 0.25, "zero")
    assert build(overlap=0.5).overlap == 0.5
    # the published chunks: the last one is filled up with silence to the length of the others
    assert model.context(320) == (80, 80)
    assert model.context(100) == (80, 300)
    assert model.context(1000) == (80, 80)


def test_the_other_stem_is_the_mixture_minus_the_compensated_stem() -> None:
    model = build(stems=("instrumental", "vocals"), compensate=1.5)
    sound = mixture(480)
    estimates = model(sound)
    vocals = build()(sound)
    torch.testing.assert_close(estimates[:, 1:], vocals, atol=0, rtol=0)
    torch.testing.assert_close(estimates[:, :1], sound[:, None] - 1.5 * vocals)
    alone = build(stems=("instrumental",), compensate=1.5)(sound)
    assert torch.equal(alone, estimates[:, :1])


def test_denoise_averages_over_the_sign() -> None:
    sound = mixture(480)
    positive, negative = build()(sound), build()(-sound)
    assert (positive + negative).abs().max() > 1e-3, "the toy is odd by itself"
    torch.testing.assert_close(build(denoise=True)(sound), (positive - negative) / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "stems", "message"),
    [
        ({"n_fft": 0}, BOTH, "has no n_fft"),
        ({"n_fft": 161}, BOTH, "n_fft is 161"),
        ({"colour": 1}, BOTH, "no colour"),
        ({"primary_stem": None}, BOTH, "primary_stem is None"),
        ({"primary_stem": "drums"}, BOTH, "gives drums and one other stem, asked for were vocals, instrumental"),
        ({}, ("vocals", "drums", "bass"), "one other stem"),
        ({}, ("vocals", "vocals"), "one other stem"),
        ({"hop_length": 0}, BOTH, "hop_length is 0"),
        ({"hop_length": 81}, BOTH, "hop_length is 81"),
        ({"dim_f": 90}, BOTH, "dim_f is 90, expected 4..81"),
        ({"dim_f": 3}, BOTH, "dim_f is 3"),
        ({"dim_f": 60}, BOTH, "dim_f is 60, expected a multiple of 32"),
        ({"dim_t": 5}, BOTH, "dim_t 5"),
        ({"dim_t": 1_000_000, "hop_length": 80}, BOTH, "dim_t 1000000"),
        ({"overlap": 1.0}, BOTH, "overlap is 1.0"),
        ({"compensate": 0}, BOTH, "compensate is 0"),
        ({"compensate": "loud"}, BOTH, "compensate is 'loud'"),
        ({"denoise": 1}, BOTH, "denoise is 1"),
        ({"sample_rate": 1}, BOTH, "sample_rate is 1"),
        ({"g": 0}, BOTH, "g is 0"),
        ({"g": 4096}, BOTH, "g is 4096"),
        ({"L": 4}, BOTH, "L is 4"),
        ({"L": 1}, BOTH, "L is 1"),
        ({"L": 99}, BOTH, "L is 99"),
        ({"l": 0}, BOTH, "l is 0"),
        ({"k": 2}, BOTH, "k is 2"),
        ({"bn": 0}, BOTH, "bn is 0"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], stems: tuple[str, ...], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        MDXNet.from_config({**MDX_NET, **MDX_NET_CASES["folded"], **SIGNAL, **changes}, stems)


# ---------------------------------------------------------------- other graphs


def changed(operator: str, edit: Any, place: int = 0) -> bytes:
    """A file whose node number `place` of an operator was edited: (operator, inputs, outputs, attributes) -> same."""
    count = 0

    def change(found: str, inputs: list[str], outputs: list[str], attributes: dict[str, Any]) -> tuple[Any, ...]:
        nonlocal count
        count += found == operator
        if found == operator and count == place + 1:
            return tuple(edit(found, inputs, outputs, attributes))
        return found, inputs, outputs, attributes

    data = mdx_net_file("folded", change=change)
    assert count > place
    return data


def _attribute(**values: Any) -> Any:
    return lambda operator, inputs, outputs, attributes: (operator, inputs, outputs, {**attributes, **values})


def _as(other: str) -> Any:
    return lambda operator, inputs, outputs, attributes: (other, inputs, outputs, attributes)


def _inputs(pick: Any) -> Any:
    return lambda operator, inputs, outputs, attributes: (operator, pick(inputs), outputs, attributes)


@pytest.mark.parametrize(
    ("operator", "edit", "message"),
    [
        ("Relu", _as("Elu"), "node 2 is Elu, this network's Relu"),
        ("Mul", _as("Add"), "is Add, this network's Mul"),
        ("Mul", _inputs(lambda names: [names[0], names[0]]), r"\(Mul\) takes other values"),
        ("Mul", _inputs(lambda names: [names[0], "v16"]), r"\(Mul\) takes other values"),
        ("Add", _inputs(lambda names: [names[1], "input"]), r"\(Add\) takes other values"),
        ("Conv", _attribute(strides=[2, 2]), r"strides \[2, 2\]"),
        ("Conv", _attribute(pads=[1, 0, 0, 0]), r"pads \[1, 0, 0, 0\]"),
        ("Conv", _attribute(dilations=[2, 2]), r"dilations \[2, 2\]"),
        ("Conv", _attribute(group=2), "group 2"),
        ("Conv", _attribute(auto_pad="SAME_UPPER"), "padded otherwise"),
        ("Conv", _inputs(lambda names: [*names, names[1]]), "other weights"),
        ("Conv", _inputs(lambda names: names[:1]), "has no weights"),
        ("ConvTranspose", _attribute(output_padding=[1, 0]), "padded otherwise"),
        ("Transpose", _attribute(perm=[0, 1, 2, 3]), r"perm \[0, 1, 2, 3\]"),
        ("MatMul", _inputs(lambda names: names[::-1]), "no layer over frequency"),
        ("BatchNormalization", _inputs(lambda names: names[:4]), "four per channel"),
        ("BatchNormalization", _attribute(epsilon=-2.0), "variance below zero"),
        ("BatchNormalization", _as("InstanceNormalization"), "is InstanceNormalization"),
    ],
)
def test_a_graph_that_is_another_is_refused(operator: str, edit: Any, message: str) -> None:
    config = {**MDX_NET, **MDX_NET_CASES["folded"], **SIGNAL}
    with pytest.raises(CheckpointError, match=f"not an MDX-Net.*{message}") as caught:
        MDXNet.convert_state(config, state_of(changed(operator, edit)))
    assert "onnx_spectrogram" in str(caught.value.hint)


@pytest.mark.parametrize("changes", [{"L": 3}, {"L": 7}, {"l": 2}, {"l": 4}])
def test_a_config_of_another_depth_is_refused(changes: dict[str, Any]) -> None:
    config = {**MDX_NET, **MDX_NET_CASES["folded"], **SIGNAL, **changes}
    with pytest.raises(CheckpointError, match="not an MDX-Net"):
        MDXNet.convert_state(config, state_of(mdx_net_file("folded")))


def test_weights_that_are_no_onnx_file_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no ONNX file"):
        MDXNet.convert_state(SIGNAL, {"checkpoint": {"weight": torch.zeros(1)}})


# ---------------------------------------------------------------- from a file to a model


def test_a_file_is_added_and_used(tmp_path: Path) -> None:
    path = tmp_path / "my_net.onnx"
    path.write_bytes(mdx_net_file("folded"))
    settings = tmp_path / "settings.json"
    settings.write_text('{"n_fft": 160, "hop_length": 32, "primary_stem": "Vocals", "compensate": 1.1}')
    added = add_model([str(path)], architecture="mdx_net", config=settings, stems=list(BOTH))
    assert added.entry.config["g"] == 6
    model = load_model(added.entry)
    sound = mixture(480)
    expected = build(stems=BOTH, compensate=1.1)(sound)
    torch.testing.assert_close(model(sound), expected, atol=0, rtol=0)
    (alone,) = load_model(added.entry, stems=["instrumental"])(sound)
    assert torch.equal(alone, expected[0, 1:])


# ---------------------------------------------------------------- onnxruntime


class FakeSession:
    """Half of its input, as onnxruntime would give it."""

    def __init__(self, file: bytes, options: Any, providers: list[str]) -> None:
        if not file:
            raise RuntimeError("no model")
        self.providers = providers

    def get_inputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="input")]

    def run(self, names: None, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        if values["input"].shape != (1, 4, 64, 16):
            raise RuntimeError("wrong sizes")
        return [values["input"] / 2]


@pytest.fixture
def fake_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("onnxruntime")
    fake.InferenceSession = FakeSession  # type: ignore[attr-defined]
    fake.SessionOptions = types.SimpleNamespace  # type: ignore[attr-defined]
    fake.get_available_providers = lambda: ["CPUExecutionProvider"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)


def spectrogram(data: bytes, **settings: Any) -> OnnxSpectrogram:
    config = {**SIGNAL, "dim_f": 64, "dim_t": 16, **settings}
    model = OnnxSpectrogram.from_config(config, BOTH).eval()
    model.load_state_dict(OnnxSpectrogram.convert_state(config, state_of(data)))
    return model


@pytest.mark.usefixtures("fake_runtime")
def test_an_unknown_graph_runs_in_onnxruntime() -> None:
    model = spectrogram(changed("Relu", _as("Elu")))
    assert model.fixed_segment
    assert model.segment_length == 480
    sound = mixture(480)
    for items in (sound, sound[..., :100], torch.cat([sound, -sound])):
        estimates = model(items)
        assert estimates.shape == (len(items), 2, *items.shape[1:])
        torch.testing.assert_close(estimates.sum(1), items)
    assert torch.equal(copy.deepcopy(model)(sound), model(sound))
    with pytest.raises(ModelError, match="wrong sizes"):
        model(mixture(1000))


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match="onnxruntime, which is not installed") as caught:
        spectrogram(mdx_net_file("folded"))(mixture(480))
    assert caught.value.hint == 'pip install "unmixcli[onnx]"'


@pytest.mark.usefixtures("fake_runtime")
def test_a_file_that_onnxruntime_refuses() -> None:
    model = OnnxSpectrogram.from_config({**SIGNAL, "dim_f": 64, "dim_t": 16}, ("vocals",))
    with pytest.raises(CheckpointError, match="can't read the file: no model"):
        model(mixture(480))


def test_a_graph_of_other_sizes_is_refused() -> None:
    for settings in ({"dim_f": 32}, {"dim_t": 32}):
        with pytest.raises(CheckpointError, match=r"inputs are .*expected one of sizes"):
            spectrogram(mdx_net_file("folded"), **settings)
    with pytest.raises(CheckpointError, match="no ONNX file"):
        OnnxSpectrogram.convert_state(SIGNAL, {"checkpoint": {"weight": torch.zeros(1)}})


def test_sizes_are_read_off_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(mdx_net_file("folded"))
    settings = {"checkpoint": read_checkpoint(path).settings}
    assert OnnxSpectrogram.complete_config(SIGNAL, settings) == {**SIGNAL, "dim_f": 64, "dim_t": 16}
    assert OnnxSpectrogram.complete_config(SIGNAL, {}) == SIGNAL


def test_onnxruntime_itself_where_it_is_installed() -> None:
    pytest.importorskip("onnxruntime")
    expected = np.load(REFERENCES)["mdx_net_folded"]
    np.testing.assert_allclose(run(spectrogram(mdx_net_file("folded")), spectrum()), expected, atol=1e-6)
