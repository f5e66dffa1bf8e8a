"""The mask networks: what they learn from and give, and that a segment sees what the whole song would show it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from unmixcli.errors import CheckpointError, OptionError
from unmixcli.models import architecture_class
from unmixcli.models.band_masks import band_widths
from unmixcli.models.base import SeparationModel
from unmixcli.models.mask_network import AcrossBands, MaskNetwork
from unmixcli.training.losses import Loss, Objective

STEMS = ("vocals", "drums", "other")
SMALL: dict[str, dict[str, Any]] = {
    "tcn_masks": {"n_fft": 256, "hop": 64, "max_bin": 90, "hidden": 8, "blocks": 2},
    "band_masks": {"n_fft": 256, "hop": 64, "bands": 12, "hidden": 8, "blocks": 3, "level": 5},
    "unet_masks": {"n_fft": 256, "hop": 64, "max_bin": 128, "hidden": 4, "growth": 4, "blocks": 2},
}


def build(name: str, *, stems: tuple[str, ...] = STEMS, **config: Any) -> MaskNetwork:
    torch.manual_seed(0)
    model = architecture_class(name).from_config(SMALL[name] | {"targets": list(STEMS)} | config, stems)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert isinstance(model, MaskNetwork)
    return model.eval()


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 2])
def test_stems_add_up_to_the_mixture(name: str, channels: int) -> None:
    """The masks are a softmax, and the inverse transform is linear: float32 rounds, nothing else differs."""
    model = build(name, channels=channels)
    mixture = noise(2, channels, 5000)
    torch.testing.assert_close(model(mixture).sum(1), mixture, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_some_stems_are_those_of_all(name: str) -> None:
    mixture = noise(1, 2, 3000)
    some = build(name, stems=("other", "vocals"))
    assert not some.covers_mixture
    torch.testing.assert_close(some(mixture), build(name)(mixture)[:, [2, 0]])


@pytest.mark.parametrize("name", SMALL)
def test_a_segment_gives_what_the_song_gives(name: str) -> None:
    """Beyond `edge` nothing is seen, so that what lies between the edges is the same up to rounding."""
    model = build(name)
    song = noise(1, 2, 40 * model.segment_multiple + 4 * model.edge)
    whole = model(song)
    start = 3 * model.segment_multiple
    piece = song[..., start : start + 2 * model.edge + 20 * model.segment_multiple]
    inner = slice(model.edge, piece.shape[-1] - model.edge)
    expected = whole[..., start : start + piece.shape[-1]][..., inner]
    torch.testing.assert_close(model(piece)[..., inner], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_channels_swapped(name: str) -> None:
    """Left and right exchanged turn the side's sign and exchange two features: middle and side stay middle and side."""
    model = build(name)
    mixture = noise(1, 2, 3000)
    spectra = model.training_spectra(mixture)
    swapped = model.training_spectra(mixture.flip(1))
    torch.testing.assert_close(swapped[:, 0], spectra[:, 0])
    torch.testing.assert_close(swapped[:, 1], -spectra[:, 1])
    energy = model.training_spectra(mixture).abs().square().sum()
    left_right = build(name, channels=1).training_spectra(mixture.transpose(0, 1)).abs().square().sum()
    torch.testing.assert_close(energy, left_right)  # orthonormal


def test_a_quiet_recording_is_separated_as_a_loud_one() -> None:
    """With the level evened out the masks depend on it only through the floor under the logarithm."""
    model = build("band_masks")
    loud = 2 * noise(1, 2, 5000)
    for gain in (0.1, 2.0):
        torch.testing.assert_close(model(gain * loud) / gain, model(loud), atol=2e-3, rtol=0)
    seen = build("tcn_masks")  # which sees levels as they are
    assert (seen(0.1 * loud) / 0.1 - seen(loud)).abs().max() > 2e-2


def test_the_level_is_that_of_the_surroundings() -> None:
    """White noise of one level is brought to -17 dBFS, whatever the channels and the window."""
    for channels, n_fft in ((1, 256), (2, 256), (2, 512)):
        model = build("band_masks", channels=channels, n_fft=n_fft)
        spectra = model.training_spectra(0.5 * noise(1, channels, 60000))
        gain = model._gain(spectra.abs())[0, 0, 0, 100:-100]
        rms = 0.05  # of the noise
        torch.testing.assert_close(gain, torch.full_like(gain, 10 ** (-17 / 20) / rms), rtol=0.15, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_projections_are_what_the_spectra_hold_in_phase(name: str) -> None:
    """The masked magnitude is the masked spectrum turned to the mixture's phase; a reference's projection is too."""
    model = build(name)
    references = noise(2, 3, 2, 3000)
    mixture = references.sum(1)
    outputs = model.training_outputs(mixture, {"projections", "spectra"})
    assert set(outputs) == {"projections", "spectra"}
    phase = model.training_spectra(mixture)
    phase = phase / phase.abs()
    alone = model.training_outputs(mixture, {"projections"})["projections"]
    torch.testing.assert_close(alone, (outputs["spectra"] * phase.conj()[:, None]).real, atol=1e-4, rtol=1e-4)
    target = model.training_projections(mixture, references)
    expected = (model.training_spectra(references) * phase.conj()[:, None]).real
    torch.testing.assert_close(target, expected, atol=1e-4, rtol=1e-4)
    # they add up to the mixture's magnitude, so masks that add to one can reach them all
    torch.testing.assert_close(target.sum(1), model.training_spectra(mixture).abs(), atol=1e-3, rtol=1e-4)


def test_squared_projection_loss_differs_from_that_of_spectra_by_a_constant() -> None:
    """|mX - S|² = (m|X| - Re(S X*)/|X|)² + what no real mask can reach: same gradient, half the numbers."""
    model = build("band_masks").train()
    references = noise(2, 3, 2, 3000)
    mixture = references.sum(1)
    gradients = []
    for on in ("spectrum", "projection"):
        objective = Objective([Loss("mse", on=on)])
        model.zero_grad()
        loss, _ = objective(model.training_outputs(mixture, objective.wanted), references, None, model, mixture)
        # means over twice as many numbers: half of each
        (loss * (2 if on == "spectrum" else 1)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert gradients[0].abs().max() > 1e-6
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4 * float(gradients[0].abs().max()), rtol=1e-3)


def test_two_losses_see_each_their_own() -> None:
    """Projections beside spectra: the model gives both, and the sum of the losses is the sum of their values."""
    model = build("tcn_masks").train()
    references = noise(1, 3, 2, 2000)
    mixture = references.sum(1)
    losses = [Loss("l1", on="projection"), Loss("l1", on="spectrum"), Loss("mse", on="waveform")]
    both = Objective(losses)
    total, values = both(model.training_outputs(mixture, both.wanted), references, None, model)
    torch.testing.assert_close(total.detach(), values.sum())
    for loss, value in zip(losses, values, strict=True):
        one = Objective([loss])
        alone, _ = one(model.training_outputs(mixture, one.wanted), references, None, model)
        torch.testing.assert_close(alone.detach(), value)


def test_a_projection_needs_a_model_that_has_one() -> None:
    waves = noise(1, 2, 2, 500)
    with pytest.raises(OptionError, match="no projections of its own"):
        Objective([Loss("l1", on="projection")])({"projections": waves}, waves, None, SeparationModel())
    with pytest.raises(OptionError, match="without n_fft"):
        Loss("l1", on="projection", n_fft=(512,))


@pytest.mark.parametrize(("bins", "bands"), [(2049, 64), (129, 12), (64, 16), (2049, 1)])
def test_bands_cover_all_bins_and_grow(bins: int, bands: int) -> None:
    widths = band_widths(bins, bands)
    assert sum(widths) == bins
    assert len(widths) == bands
    assert min(widths) >= min(4, bins)
    assert all(low <= high for low, high in pairwise(widths[:-1]))  # the last takes what is left


def test_dense_layers_over_bands_are_matrix_products() -> None:
    """The layers without transpositions against einsum, in evaluation mode with the statistics as they are built."""
    torch.manual_seed(0)
    layer = AcrossBands(3, 10, 4).eval()
    x = torch.randn(2, 3, 10, 5)
    inner = torch.relu(layer.norm(torch.einsum("pq,bcqn->bcpn", layer.enter, x)))
    expected = x + torch.einsum("qp,bcpn->bcqn", layer.leave, inner)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("band_masks", {"bands": 200}, "bands are too many"),
        ("band_masks", {"blocks": 13}, "blocks is 13"),
        ("unet_masks", {"max_bin": 90}, "expected a multiple of 16"),
        ("band_masks", {"width": 3}, "band_masks has no width"),
        ("tcn_masks", {"channels": 3}, "channels is 3"),
        ("tcn_masks", {"hidden": 0}, "hidden is 0"),
        ("tcn_masks", {"max_bin": 130}, "max_bin is 130"),
    ],
)
def test_settings_that_can_not_be(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build(name, **config)
