"""The table of architectures: name in the registry -> where the class stands.

A plain dict of strings, so that nothing is imported before it is used. Other packages add rows through the
entry point group `unmixcli.architectures` (name = "package.module:Class").
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from unmixcli.errors import RegistryError

if TYPE_CHECKING:
    from unmixcli.models.base import SeparationModel

ARCHITECTURES: dict[str, str] = {
    "open_unmix": "unmixcli.models.open_unmix:OpenUnmix",
    "x_umx": "unmixcli.models.x_umx:XUMX",
    "tdc_unet": "unmixcli.models.tdc_unet:TDCUNet",
    "tcn_masks": "unmixcli.models.tcn_masks:TCNMasks",
    "band_masks": "unmixcli.models.band_masks:BandMasks",
    "unet_masks": "unmixcli.models.unet_masks:UNetMasks",
    "demucs": "unmixcli.models.demucs:Demucs",
    "demucs_v1": "unmixcli.models.demucs_v2:DemucsV1",
    "demucs_v2": "unmixcli.models.demucs_v2:DemucsV2",
    "conv_tasnet": "unmixcli.models.conv_tasnet:ConvTasNet",
    "demucs_bag": "unmixcli.models.demucs_bag:DemucsBag",
    "hdemucs": "unmixcli.models.hdemucs:HDemucs",
    "htdemucs": "unmixcli.models.htdemucs:HTDemucs",
    "bs_roformer": "unmixcli.models.bs_roformer:BSRoformer",
    "mel_band_roformer": "unmixcli.models.mel_band_roformer:MelBandRoformer",
    "vr": "unmixcli.models.vr:VR",
    "bandit_v2": "unmixcli.models.bandit_v2:BandItV2",
    "apollo": "unmixcli.models.apollo:Apollo",
    "scnet": "unmixcli.models.scnet:SCNet",
    "scnet_masked": "unmixcli.models.scnet:SCNetMasked",
    "mdx_net": "unmixcli.models.mdx_net:MDXNet",
    "mdx23c": "unmixcli.models.mdx23c:MDX23C",
    "onnx_spectrogram": "unmixcli.models.onnx_spectrogram:OnnxSpectrogram",
    "spleeter": "unmixcli.models.spleeter:Spleeter",
    "wave_unet": "unmixcli.models.wave_unet:WaveUNet",
    "wave_unet_pytorch": "unmixcli.models.wave_unet_pytorch:WaveUNetPytorch",
    "meta_tasnet": "unmixcli.models.meta_tasnet:MetaTasNet",
    "drnn": "unmixcli.models.drnn:DRNN",
    "gru_masks": "unmixcli.models.gru_masks:GRUMasks",
    "vpnn": "unmixcli.models.vpnn:VPNN",
    "frame_masks": "unmixcli.models.frame_masks:FrameMasks",
    "lstm_masks": "unmixcli.models.frame_masks:LSTMMasks",
    "repet": "unmixcli.models.repet:Repet",
    "bytesep": "unmixcli.models.bytesep:ByteSep",
    "repet_sim": "unmixcli.models.repet_sim:RepetSim",
    "ft2d": "unmixcli.models.ft2d:FT2D",
    "rpca": "unmixcli.models.rpca:RPCA",
    "nmf": "unmixcli.models.nmf:NMF",
    "nmf_supervised": "unmixcli.models.nmf_supervised:NMFSupervised",
    "ica": "unmixcli.models.ica:ICA",
    "pca": "unmixcli.models.pca:PCA",
    "spectral_subtraction": "unmixcli.models.spectral_subtraction:SpectralSubtraction",
    "harmonic_percussive": "unmixcli.models.harmonic_percussive:HarmonicPercussive",
    "centre_extraction": "unmixcli.models.centre_extraction:CentreExtraction",
    "classical_stems": "unmixcli.models.classical_stems:ClassicalStems",
}

# Architectures whose forward pass takes blocks of tens of MiB, again and again the same ones: the command line keeps
# what they free for the next segment (`cli/_memory.py`).
LARGE_BLOCKS = frozenset({
    "demucs", "demucs_v1", "demucs_v2", "conv_tasnet", "demucs_bag", "hdemucs", "htdemucs", "mdx_net", "mdx23c",
    "scnet", "scnet_masked", "spleeter", "vr", "bytesep",
})  # fmt: skip

# Class that a published package names -> the architecture here, for weights whose entry nobody wrote yet.
PACKAGE_CLASSES: dict[str, str] = {
    "demucs.demucs.Demucs": "demucs",
    "demucs.hdemucs.HDemucs": "hdemucs",
    "demucs.htdemucs.HTDemucs": "htdemucs",
    "demucs.model.Demucs": "demucs_v2",
    "demucs.model.Demucs (version 1)": "demucs_v1",
    "demucs.tasnet.ConvTasNet": "conv_tasnet",
    "demucs.tasnet.ConvTasNet (version 1)": "conv_tasnet",
    "asteroid.XUMX": "x_umx",
    "asteroid.Apollo": "apollo",  # written in asteroid's format
    "meta_tasnet.MultiTasNet": "meta_tasnet",
}


def architectures() -> dict[str, str]:
    """The table above with the rows that installed packages add to it (ours win)."""
    table = {point.name: point.value for point in entry_points(group="unmixcli.architectures")}
    return {**table, **ARCHITECTURES}


def architecture_class(name: str) -> type[SeparationModel]:
    """The class of an architecture.

    Raises:
        RegistryError: no row of that name.
    """
    table = ARCHITECTURES if name in ARCHITECTURES else architectures()  # looking for packages takes milliseconds
    if name not in table:
        raise RegistryError(
            f"the architecture {name!r} is not known; known are {', '.join(sorted(table))}.",
            hint="upgrade unmixcli, or install the package that provides it.",
        )
    module, _, attribute = table[name].partition(":")
    found: type[SeparationModel] = getattr(import_module(module), attribute)
    return found
