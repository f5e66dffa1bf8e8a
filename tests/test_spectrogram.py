"""The shared transform against torch's own, and back."""

from __future__ import annotations

import pytest
import torch

from unmixcli.models.spectrogram import OverlapAdd, centre_pad, frame_count, spectra

N_FFT, HOP = 64, 16
WINDOW = torch.hann_window(N_FFT)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("length", [33, 64, 100, 1000])
def test_spectra_are_those_of_torch_stft(length: int) -> None:
    signal = noise(2, length)
    padded = centre_pad(signal, N_FFT)
    expected = torch.stft(signal, N_FFT, HOP, window=WINDOW, return_complex=True).transpose(-1, -2)
    torch.testing.assert_close(spectra(padded, WINDOW, HOP), expected)
    assert frame_count(padded.shape[-1], N_FFT, HOP) == expected.shape[-2]


def test_frames_can_be_taken_in_parts() -> None:
    padded = centre_pad(noise(2, 500), N_FFT)
    together = spectra(padded, WINDOW, HOP)
    parts = [spectra(padded, WINDOW, HOP, 0, 7), spectra(padded, WINDOW, HOP, 7, 8), spectra(padded, WINDOW, HOP, 8)]
    torch.testing.assert_close(torch.cat(parts, -2), together)


@pytest.mark.parametrize("length", [1, 5, 32, 33, 64, 100, 1000])
def test_there_and_back(length: int) -> None:
    signal = noise(2, length)
    padded = centre_pad(signal, N_FFT)
    found = spectra(padded, WINDOW, HOP)
    frames = found.shape[-2]
    added = OverlapAdd((2,), frames, WINDOW, HOP)
    added.add((0,), found[0, :2], 0)
    added.add((1,), found[1, :2], 0)
    added.add((), found[:, 2:], 2)
    torch.testing.assert_close(added.signal(N_FFT // 2, length), signal, atol=1e-6, rtol=0)


def test_changed_spectra_come_back_as_from_torch_istft() -> None:
    # not the spectra of any signal: what the inverse does with them is its own definition
    signal = noise(2, 333)
    found = spectra(centre_pad(signal, N_FFT), WINDOW, HOP)
    found = found * noise(*found.shape).abs()
    added = OverlapAdd((2,), found.shape[-2], WINDOW, HOP)
    added.add((), found, 0)
    expected = torch.istft(found.transpose(-1, -2), N_FFT, HOP, window=WINDOW, length=333)
    torch.testing.assert_close(added.signal(N_FFT // 2, 333), expected, atol=1e-6, rtol=0)


def test_the_input_is_left_alone() -> None:
    signal = noise(1, 200)
    before = signal.clone()
    spectra(centre_pad(signal, N_FFT), WINDOW, HOP)
    assert torch.equal(signal, before)


def test_a_window_that_is_no_multiple_of_the_hop_is_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        OverlapAdd((1,), 3, WINDOW, 15)
