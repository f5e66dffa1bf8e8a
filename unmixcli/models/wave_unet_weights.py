"""The variables of Wave-U-Net's TensorFlow checkpoints as tensors of `wave_unet`, and back.

`separator/conv1d`, `conv1d_1` … stand in the order down, bottom, up, and one for each output; each has a `kernel`
[width, in, out] and a `bias`. `separator/interp_0` … are the weights of learned upsampling, from the bottom up. Beside
them stand the optimiser's moments and steps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from unmixcli.errors import CheckpointError

_SCOPE = "separator/"
_VARIABLE = re.compile(r"separator/(conv1d(?:_\d+)?/(?:kernel|bias)|interp_\d+)\Z")
# of the optimiser and the loop around it
_OTHER = re.compile(r"(.*/)?(Adam(_1)?|beta[12]_power(_1)?|global_step\w*|step|Variable(_\d+)?)\Z")


def is_tensorflow(state: Mapping[str, Tensor]) -> bool:
    """Whether these are TensorFlow's names."""
    return any(name.startswith(_SCOPE) for name in state)


def from_tensorflow(state: Mapping[str, Tensor], levels: int, *, learned: bool) -> dict[str, Tensor]:
    """The state dict of `WaveUNet`.

    Args:
        state: TensorFlow's variables.
        levels: num_layers.
        learned: upsampling has weights of its own.

    Raises:
        CheckpointError: a variable that is missing or that such a network doesn't have.
    """
    variables = {match[1]: tensor for name, tensor in state.items() if (match := _VARIABLE.match(name))}
    strange = [name for name in state if not _VARIABLE.match(name) and not _OTHER.match(name)]
    count = sum(name.endswith("/kernel") for name in variables)
    converted: dict[str, Tensor] = {}

    def taken(name: str) -> Tensor:
        if name not in variables:
            raise CheckpointError(
                f"the weights of a Wave-U-Net of {levels} levels: {_SCOPE}{name} is missing.",
                hint="num_layers and upsampling in the config must be those of the weights.",
            )
        return variables.pop(name)

    def layer(number: int) -> tuple[Tensor, Tensor]:
        name = f"conv1d_{number}" if number else "conv1d"
        kernel, bias = taken(f"{name}/kernel"), taken(f"{name}/bias")
        if kernel.dim() != 3 or bias.shape != kernel.shape[2:]:
            raise CheckpointError(f"{_SCOPE}{name} has a kernel {tuple(kernel.shape)} and a bias {tuple(bias.shape)}.")
        return kernel.permute(2, 1, 0), bias

    for number in range(2 * levels + 1):
        place = f"down.{number}" if number <= levels else f"up.{number - levels - 1}"
        converted[f"{place}.weight"], converted[f"{place}.bias"] = layer(number)
    outputs = [layer(number) for number in range(2 * levels + 1, max(count, 2 * levels + 2))]
    if any(weight.shape[1:] != outputs[0][0].shape[1:] for weight, _ in outputs):
        raise CheckpointError("the outputs of the Wave-U-Net are of different shapes: num_layers is another.")
    converted["output.weight"] = torch.cat([weight for weight, _ in outputs])
    converted["output.bias"] = torch.cat([bias for _, bias in outputs])
    for level in range(levels if learned else 0):
        converted[f"interpolation.{level}"] = taken(f"interp_{level}")
    if left := sorted([*strange, *(_SCOPE + name for name in variables)]):
        raise CheckpointError(f"the weights hold {', '.join(left[:5])}, which a Wave-U-Net of this config has not.")
    return {name: tensor.float().contiguous() for name, tensor in converted.items()}


def to_tensorflow(state: Mapping[str, Tensor], levels: int, channels: int) -> dict[str, Tensor]:
    """The inverse of `from_tensorflow`: weights under TensorFlow's names and in its order of axes.

    Args:
        state: of a `WaveUNet`.
        levels: num_layers.
        channels: of the audio: the outputs are one variable each.
    """
    variables = {}

    layers = [(f"down.{number}", number) for number in range(levels + 1)]
    layers += [(f"up.{number}", levels + 1 + number) for number in range(levels)]
    pairs = [(number, state[f"{name}.weight"], state[f"{name}.bias"]) for name, number in layers]
    outputs = zip(state["output.weight"].split(channels), state["output.bias"].split(channels), strict=True)
    pairs += [(2 * levels + 1 + number, weight, bias) for number, (weight, bias) in enumerate(outputs)]
    for number, weight, bias in pairs:
        name = f"{_SCOPE}conv1d_{number}" if number else f"{_SCOPE}conv1d"
        variables[f"{name}/kernel"], variables[f"{name}/bias"] = weight.permute(2, 1, 0).contiguous(), bias
    for name, tensor in state.items():
        if name.startswith("interpolation."):
            variables[f"{_SCOPE}interp_{name.removeprefix('interpolation.')}"] = tensor
    return variables
