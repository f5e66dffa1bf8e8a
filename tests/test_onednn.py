"""The layers that go through oneDNN against PyTorch's own in double precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.models import onednn

EXACT = 2e-5  # sums of a few hundred products of numbers near 1, in float32


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def deviation(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    return float((found.double() - expected).abs().max())


@pytest.mark.parametrize("shape", [(7, 16), (3, 5, 16), (1, 16), (2, 3, 4, 16)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
def test_linear(shape: tuple[int, ...], bias: bool, gelu: bool) -> None:
    x, weight, shift = noise(*shape), noise(24, 16), noise(24) if bias else None
    with torch.inference_mode():
        found = onednn.linear(x, weight, shift, gelu=gelu)
    expected = F.linear(x.double(), weight.double(), None if shift is None else shift.double())
    assert deviation(found, F.gelu(expected) if gelu else expected) < EXACT


def test_linear_of_a_view() -> None:
    x, weight = noise(16, 9).t(), noise(48, 16)[::2]
    with torch.inference_mode():
        found = onednn.linear(x, weight)
    assert deviation(found, F.linear(x.double(), weight.double())) < EXACT


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (40, 40), (700, 33), (33, 700), (5, 9000)])
def test_attention(queries: int, keys: int) -> None:
    q, k, v = noise(2, 3, queries, 8), noise(2, 3, keys, 8), noise(2, 3, keys, 8)
    with torch.inference_mode():
        found = onednn.attention(q, k, v)
    assert deviation(found, F.scaled_dot_product_attention(q.double(), k.double(), v.double())) < EXACT


def test_attention_of_large_scores_is_finite() -> None:
    q = 100 * noise(1, 1, 50, 16)
    with torch.inference_mode():
        assert torch.isfinite(onednn.attention(q, q, q)).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: onednn.Conv1d(12, 20, 1),
        lambda: onednn.Conv1d(12, 20, 1, bias=False),
        lambda: onednn.Conv1d(12, 20, 3, dilation=2, padding=2),
        lambda: onednn.Conv1d(12, 20, 8, stride=4, padding=2),
        lambda: onednn.Conv1d(12, 12, 3, padding=1, groups=12),
        lambda: onednn.Conv1d(12, 20, 3, padding="same"),
        lambda: onednn.Conv2d(12, 20, (8, 1), (4, 1), (2, 0)),
        lambda: onednn.Conv2d(12, 20, 3, padding=1, bias=False),
        lambda: onednn.Conv2d(12, 20, 1),
        lambda: onednn.Conv2d(12, 20, 3, padding=(1, 2), dilation=(1, 2), padding_mode="reflect"),
    ],
)
def test_convolutions(layer: Callable[[], nn.Module], batch: int, threads: int) -> None:
    torch.manual_seed(0)
    module = layer()
    x = noise(batch, 12, 33) if isinstance(module, nn.Conv1d) else noise(batch, 12, 33, 17)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            found = module(x)
            found_of_view = module(x.flip(-1).transpose(0, 1).contiguous().transpose(0, 1))
    finally:
        torch.set_num_threads(before)
    double = layer().double()
    double.load_state_dict(module.state_dict())
    assert deviation(found, double(x.double()).detach()) < EXACT
    assert deviation(found_of_view, double(x.flip(-1).double()).detach()) < EXACT


def test_gradients_and_autocast_take_pytorchs_way() -> None:
    x, layer = noise(2, 12, 33), onednn.Conv1d(12, 20, 1)
    layer(x).square().sum().backward()
    assert layer.weight.grad is not None
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert onednn.linear(x, noise(5, 33)).dtype == torch.bfloat16


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_product", lambda: None)
    x, weight, q = noise(4, 16), noise(8, 16), noise(1, 2, 40, 8)
    layer = onednn.Conv2d(3, 4, 3)
    image = noise(1, 3, 9, 9)
    with torch.inference_mode():
        assert torch.equal(onednn.linear(x, weight), F.linear(x, weight))
        assert torch.equal(onednn.attention(q, q, q), F.scaled_dot_product_attention(q, q, q))
        assert torch.equal(layer(image), F.conv2d(image, layer.weight, layer.bias))
