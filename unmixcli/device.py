"""Which devices there are, and the choice among them."""

from __future__ import annotations

import os

import torch

from unmixcli.errors import DeviceError


def available_devices() -> tuple[str, ...]:
    """Names of the devices torch can use here: "cpu" first, then "mps", "cuda:0", "cuda:1" …"""
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.append("mps")
    found += [f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    return tuple(found)


def choose_device(wish: str) -> torch.device:
    """The device for "auto" (CUDA, then MPS, then the CPU), "cpu", "mps", "cuda" or "cuda:N".

    Raises:
        DeviceError: the device asked for is not here.
    """
    found = available_devices()
    if wish == "auto":
        best = next((name for name in ("cuda:0", "mps") if name in found), "cpu")
        return torch.device(best)
    name = "cuda:0" if wish == "cuda" else wish
    if name not in found:
        raise DeviceError(
            f"the device {wish!r} is not available; here are {', '.join(found)}.",
            hint="`unmix doctor` shows what torch sees; --device auto takes the best there is.",
        )
    return torch.device(name)


def device_title(device: torch.device) -> str:
    """A line for people: the device and its name or its number of threads."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({cpu_count()} threads)"
    return str(device)


def cpu_count() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
