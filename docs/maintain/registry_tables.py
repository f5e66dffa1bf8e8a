"""What `build_registry.py` knows beside the facts file: short names, settings that the facts lack, terms, presets.

Settings are those of the published config files; where each was read stands beside it. File names are the published
ones and the key of every table.
"""

from __future__ import annotations

from typing import Any

# --- names: the facts' own name, or the file's, is made short by `build_registry.short_name`, except these

NAMES = {
    "model_bs_roformer_ep_317_sdr_12.9755.ckpt": "bs_roformer_ep317",
    "model_bs_roformer_ep_368_sdr_12.9628.ckpt": "bs_roformer_ep368",
    "model_bs_roformer_ep_937_sdr_10.5309.ckpt": "bs_roformer_ep937",
    "model_bs_roformer_ep_17_sdr_9.6568.ckpt": "bs_roformer_4stems",
    "bs_roformer_4stems_ft.ckpt": "bs_roformer_4stems_ft",
    "bs_roformer_male_female_by_aufr33_sdr_7.2889.ckpt": "bs_roformer_male_female_aufr33",
    "model_chorus_bs_roformer_ep_267_sdr_24.1275.ckpt": "bs_roformer_male_female_sucial",
    "voc_gaboxBSR.ckpt": "bs_roformer_gabox_voc",
    "deverb_bs_roformer_8_256dim_8depth.ckpt": "bs_roformer_dereverb_small",
    "deverb_bs_roformer_8_384dim_10depth.ckpt": "bs_roformer_dereverb",
    "MelBandRoformer.ckpt": "mel_roformer_kim",
    "model_mel_band_roformer_ep_3005_sdr_11.4360.ckpt": "mel_roformer_ep3005",
    "model_vocals_mel_band_roformer_sdr_8.42.ckpt": "mel_roformer_vocals_small",
    "model_mel_band_roformer_ep_314_sdr_7.9825.ckpt": "mel_roformer_guitar_chencfd",
    "becruily_guitar.ckpt": "mel_roformer_guitar_becruily",
    "becruily_deux.ckpt": "mel_roformer_deux_becruily",
    "mel_band_roformer_vocals_becruily.ckpt": "mel_roformer_vocals_becruily",
    "mel_band_roformer_instrumental_becruily.ckpt": "mel_roformer_inst_becruily",
    "mel_band_roformer_karaoke_becruily.ckpt": "mel_roformer_karaoke_becruily",
    "mel_band_roformer_karaoke_aufr33_viperx_sdr_10.1956.ckpt": "mel_roformer_karaoke_aufr33",
    "KaraokeGabox.ckpt": "mel_roformer_karaoke_gabox_experimental",
    "kar_gabox.ckpt": "mel_roformer_karaoke_gabox",
    "Karaoke_GaboxV2.ckpt": "mel_roformer_karaoke_gabox_v2",
    "small_karaoke_gaboxaufr.ckpt": "mel_roformer_karaoke_gabox_small",
    "mel_band_roformer_crowd_aufr33_viperx_sdr_8.7144.ckpt": "mel_roformer_crowd",
    "denoise_mel_band_roformer_aufr33_sdr_27.9959.ckpt": "mel_roformer_denoise",
    "denoise_mel_band_roformer_aufr33_aggr_sdr_27.9768.ckpt": "mel_roformer_denoise_aggressive",
    "deverb_mel_band_roformer_ep_27_sdr_10.4567.ckpt": "mel_roformer_dereverb_ep27",
    "dereverb_mel_band_roformer_anvuew_sdr_19.1729.ckpt": "mel_roformer_dereverb",
    "dereverb_mel_band_roformer_less_aggressive_anvuew_sdr_18.8050.ckpt": "mel_roformer_dereverb_gentle",
    "dereverb_mel_band_roformer_mono_anvuew_sdr_20.4029.ckpt": "mel_roformer_dereverb_mono",
    "aspiration_mel_band_roformer_sdr_18.9845.ckpt": "mel_roformer_aspiration",
    "aspiration_mel_band_roformer_less_aggr_sdr_18.1201.ckpt": "mel_roformer_aspiration_gentle",
    "dereverb_echo_mbr_fused_0.5_v2_0.25_big_0.25_super.ckpt": "mel_roformer_dereverb_echo_fused",
    "de_big_reverb_mbr_ep_362.ckpt": "mel_roformer_dereverb_echo_big",
    "dereverb_super_big_mbr_ep_346.ckpt": "mel_roformer_dereverb_echo_super_big",
    "dereverb-echo_mel_band_roformer_sdr_10.0169.ckpt": "mel_roformer_dereverb_echo",
    "dereverb-echo_mel_band_roformer_sdr_13.4843_v2.ckpt": "mel_roformer_dereverb_echo_v2",
    "denoisedebleed.ckpt": "mel_roformer_gabox_denoise_debleed",
    "mel_band_roformer_bleed_suppressor_v1.ckpt": "mel_roformer_bleed_suppressor",
    "inst_gaboxBv2.ckpt": "mel_roformer_gabox_inst_bv2",
    "mel_band_roformer_instrumental_gabox.ckpt": "mel_roformer_gabox_inst",
    "MelBandRoformerBigSYHFTV1.ckpt": "mel_roformer_syhft_big_v1",
    "MelBandRoformerSYHFT.ckpt": "mel_roformer_syhft",
    "MelBandRoformerSYHFTV2.ckpt": "mel_roformer_syhft_v2",
    "MelBandRoformerSYHFTV2.5.ckpt": "mel_roformer_syhft_v2.5",
    "MelBandRoformerSYHFTV3Epsilon.ckpt": "mel_roformer_syhft_v3_epsilon",
    "model3.ckpt": "mel_roformer_syhft_b1",
    "melband_roformer_instvoc_duality_v1.ckpt": "mel_roformer_duality_v1",
    "melband_roformer_instvox_duality_v2.ckpt": "mel_roformer_duality_v2",
    "mel_band_roformer_4stems_large_ver1.ckpt": "mel_roformer_4stems_large",
    "mel_band_roformer_small.ckpt": "mel_roformer_small",
    "FullnessVocalModel.ckpt": "mel_roformer_vocals_fullness",
    "gilliaan_MonoStereo_Dual_Beta1.ckpt": "mel_roformer_centre_sides_beta1",
    "gilliaan_MonoStereo_Dual_Beta2.ckpt": "mel_roformer_centre_sides_beta2",
    "MDX23C-8KFFT-InstVoc_HQ.ckpt": "mdx23c_instvoc_hq",
    "model_mdx23c_ep_168_sdr_7.0207.ckpt": "mdx23c_4stems",
    "aufr33-jarredou_DrumSep_model_mdx23c_ep_141_sdr_10.8059.ckpt": "mdx23c_drumsep_6",
    "drumsep_5stems_mdx23c_jarredou.ckpt": "mdx23c_drumsep_5",
    "dereverb_mdx23c_sdr_6.9096.ckpt": "mdx23c_dereverb",
    "model_mdx23c_ep_271_l1_freq_72.2383.ckpt": "mdx23c_similarity",
    "gilliaan_mdx23c_centerwide_v1.ckpt": "mdx23c_sides_gilliaan",
    "pytorch_model.bin": "apollo",
    "Apollo_LQ_MP3_restoration.ckpt": "apollo_lq_mp3",
    "apollo_model_uni.ckpt": "apollo_uni",
    "scnet_checkpoint_musdb18.ckpt": "scnet_small",
    "model_scnet_sdr_9.3244.ckpt": "scnet_large",
    "SCNet-large_starrytong_fixed.ckpt": "scnet_large_starrytong",
    "model_scnet_ep_54_sdr_9.8051.ckpt": "scnet_xl",
    "model_scnet_ep_36_sdr_10.0891.ckpt": "scnet_xl_ihf",
    "2stems.tar.gz": "spleeter_2stems",
    "4stems.tar.gz": "spleeter_4stems",
    "5stems.tar.gz": "spleeter_5stems",
    "pretrained_xumx_musdb18HQ.pth": "xumx",
    "UVR-MDX-NET_Crowd_HQ_1.onnx": "mdx_crowd_hq_1",
    "Reverb_HQ_By_FoxJoy.onnx": "mdx_reverb_hq",
    "UVR-DeReverb-aufr33-jarredou_4band_v4_ms_fullband.pth": "vr_dereverb_aufr33",
    "Harmonic_Noise_Separation_yxlllc.pth": "vr_harmonic_noise",
    "UVR-BVE-4B_SN-44100-1.pth": "vr_bve",
    "model_drumsep.th": "hdemucs_drumsep",
    "model_vocals_htdemucs_sdr_8.78.ckpt": "htdemucs_vocals",
    "resunet143_subbtandtime_vocals_8.7dB_500k_steps_v2.pth": "resunet143_vocals",
    "resunet143_subbtandtime_accompaniment_16.4dB_500k_steps_v2.pth": "resunet143_accompaniment",
    "mobilenet_subbtandtime_vocals_7.2dB_500k_steps_v2.pth": "mobilenet_vocals",
    "mobilenet_subbtandtime_accompaniment_14.6dB_500k_steps_v2.pth": "mobilenet_accompaniment",
}

# Further names that people know these files by.
ALIASES = {
    "MelBandRoformer.ckpt": ("vocals_mel_band_roformer.ckpt", "Kim_MelBandRoformer.ckpt", "melband_roformer_kim"),
    "MDX23C-8KFFT-InstVoc_HQ.ckpt": ("model_vocals_mdx23c_sdr_10.17.ckpt",),
    "2stems.tar.gz": ("spleeter:2stems", "spleeter"),
    "4stems.tar.gz": ("spleeter:4stems",),
    "5stems.tar.gz": ("spleeter:5stems",),
    "aufr33-jarredou_DrumSep_model_mdx23c_ep_141_sdr_10.8059.ckpt": ("MDX23C-DrumSep-aufr33-jarredou.ckpt",),
    "dereverb_mdx23c_sdr_6.9096.ckpt": ("MDX23C-De-Reverb-aufr33-jarredou.ckpt",),
    "UVR-DeReverb-aufr33-jarredou_4band_v4_ms_fullband.pth": ("UVR-De-Reverb-aufr33-jarredou.pth",),
    "kimmel_unwa_ft.ckpt": ("mel_band_roformer_kim_ft_unwa.ckpt",),
    "kimmel_unwa_ft2.ckpt": ("mel_band_roformer_kim_ft2_unwa.ckpt",),
    "kimmel_unwa_ft2_bleedless.ckpt": ("mel_band_roformer_kim_ft2_bleedless_unwa.ckpt",),
    "inst_v1e.ckpt": ("melband_roformer_inst_v1e.ckpt",),
    "inst_v1e_plus.ckpt": ("melband_roformer_inst_v1e_plus.ckpt",),
    "inst_v1_plus_test.ckpt": ("melband_roformer_inst_v1_plus.ckpt",),
    "big_beta5e.ckpt": ("melband_roformer_big_beta5e.ckpt",),
    "big_beta6.ckpt": ("melband_roformer_big_beta6.ckpt",),
    "big_beta6x.ckpt": ("melband_roformer_big_beta6x.ckpt",),
    "Karaoke_GaboxV2.ckpt": ("mel_band_roformer_karaoke_gabox_v2.ckpt",),
}

# --- RoFormers: settings that the facts lack

WEBUI = "configs_backup of github.com/SUC-DriverOld/MSST-WebUI"
SIZE = "the shape of the model it was made from, which the file's size confirms"
_KIM: dict[str, Any] = {"dim": 384, "depth": 6, "mask_estimator_depth": 2, "stft_hop_length": 441}
_8S: dict[str, Any] = {"chunk_size": 352800, "num_overlap": 4}
_11S: dict[str, Any] = {"chunk_size": 485100}
_SUCIAL: dict[str, Any] = {"dim": 256, "depth": 8, "mask_estimator_depth": 2, "stft_hop_length": 441, **_8S}
_BS: dict[str, Any] = {"mask_estimator_depth": 2, "stft_hop_length": 512, "chunk_size": 352768, "num_overlap": 4}
_SHORT: dict[str, Any] = {"stft_hop_length": 512, "chunk_size": 131584, "num_overlap": 4}
_DRY = ("dry", "reverb")
_VOCALS = ("vocals", "instrumental")
_INST = ("instrumental", "vocals")

# file -> settings, outputs of the network, whether only the first is given, where the settings were read
ROFORMERS: dict[str, tuple[dict[str, Any], tuple[str, ...], bool, str]] = {
    "bs_roformer_4stems_ft.ckpt": (
        {"dim": 384, "depth": 8, "mask_estimator_depth": 2, "mlp_expansion_factor": 2, "stft_hop_length": 441,
         "chunk_size": 485100, "num_overlap": 4}, ("drums", "bass", "other", "vocals"), False, WEBUI,
    ),
    "mel_band_roformer_crowd_aufr33_viperx_sdr_8.7144.ckpt": (_KIM | _8S, ("crowd", "no_crowd"), True, WEBUI),
    "denoise_mel_band_roformer_aufr33_sdr_27.9959.ckpt": (_KIM | _8S, ("clean", "noise"), True, WEBUI),
    "denoise_mel_band_roformer_aufr33_aggr_sdr_27.9768.ckpt": (_KIM | _8S, ("clean", "noise"), True, WEBUI),
    "deverb_mel_band_roformer_ep_27_sdr_10.4567.ckpt": (
        {"dim": 256, "depth": 12, "mask_estimator_depth": 2, **_SHORT}, _DRY, True, WEBUI,
    ),
    "deverb_bs_roformer_8_256dim_8depth.ckpt": (_BS | {"dim": 256, "depth": 8}, _DRY, True, WEBUI),
    "deverb_bs_roformer_8_384dim_10depth.ckpt": (_BS | {"dim": 384, "depth": 10}, _DRY, True, WEBUI),
    "dereverb_mel_band_roformer_anvuew_sdr_19.1729.ckpt": (_KIM | _8S, _DRY, True, WEBUI),
    "dereverb_mel_band_roformer_less_aggressive_anvuew_sdr_18.8050.ckpt": (_KIM | _8S, _DRY, True, WEBUI),
    "dereverb_mel_band_roformer_mono_anvuew_sdr_20.4029.ckpt": (_KIM | _8S, _DRY, True, SIZE),
    "aspiration_mel_band_roformer_sdr_18.9845.ckpt": (_SUCIAL, ("aspiration", "no_aspiration"), False, WEBUI),
    "aspiration_mel_band_roformer_less_aggr_sdr_18.1201.ckpt": (
        _SUCIAL, ("aspiration", "no_aspiration"), False, WEBUI,
    ),
    "dereverb-echo_mel_band_roformer_sdr_10.0169.ckpt": (_SUCIAL, _DRY, False, SIZE),
    "dereverb-echo_mel_band_roformer_sdr_13.4843_v2.ckpt": (_SUCIAL, _DRY, True, WEBUI),
    "dereverb_echo_mbr_fused_0.5_v2_0.25_big_0.25_super.ckpt": (_SUCIAL, _DRY, True, WEBUI),
    "de_big_reverb_mbr_ep_362.ckpt": (_SUCIAL, _DRY, True, SIZE),
    "dereverb_super_big_mbr_ep_346.ckpt": (_SUCIAL, _DRY, True, SIZE),
    "model_mel_band_roformer_ep_3005_sdr_11.4360.ckpt": (_KIM | _8S | {"depth": 12}, _VOCALS, True, WEBUI),
    "model_vocals_mel_band_roformer_sdr_8.42.ckpt": (
        {"dim": 192, "depth": 8, "mask_estimator_depth": 1, **_SHORT}, _VOCALS, True,
        WEBUI + ", but masks of one layer less, as the file's size says",
    ),
    "KaraokeGabox.ckpt": (_KIM | _11S, ("lead_vocals", "no_lead_vocals"), True, SIZE),
    "MelBandRoformerBigSYHFTV1.ckpt": (_KIM | _8S | {"mask_estimator_depth": 3}, _VOCALS, True, SIZE),
    "MelBandRoformerSYHFT.ckpt": (_KIM | _8S, _VOCALS, True, SIZE),
    "MelBandRoformerSYHFTV2.ckpt": (_KIM | _8S, _VOCALS, True, SIZE),
    "MelBandRoformerSYHFTV2.5.ckpt": (_KIM | _8S, _VOCALS, True, SIZE),
    "MelBandRoformerSYHFTV3Epsilon.ckpt": (_KIM | _8S, _VOCALS, True, SIZE),
    "denoisedebleed.ckpt": (_KIM | _11S, _INST, True, SIZE),
    "inst_gaboxBv2.ckpt": (_KIM | _11S, _INST, True, SIZE),
    "mel_band_roformer_instrumental_gabox.ckpt": (_KIM | _11S, _INST, True, SIZE),
    "mel_band_roformer_bleed_suppressor_v1.ckpt": (_KIM | _11S, ("instrumental", "bleed"), True, SIZE),
}  # fmt: skip
# Outputs of networks whose facts have another name for them.
OUTPUTS = {"small_karaoke_gaboxaufr.ckpt": ("lead_vocals",)}
# What a network of one output leaves over, where it is more than "everything but".
COUNTERPARTS = {
    "vocals": "instrumental",
    "instrumental": "vocals",
    "dry": "reverb",
    "clean": "noise",
    "centre": "sides",
    "sides": "centre",
}

# --- MDX23C, SCNet and Demucs: settings that the facts lack

_TFC: dict[str, Any] = {
    "act": "gelu", "bottleneck_factor": 4, "growth": 128, "norm": "InstanceNorm", "num_blocks_per_scale": 2,
    "num_channels": 128, "num_scales": 5, "num_subbands": 4, "scale": [2, 2],
}  # fmt: skip
_2K: dict[str, Any] = _TFC | {"n_fft": 2048, "hop_length": 512, "dim_f": 1024, "chunk_size": 130560}
_8K: dict[str, Any] = _TFC | {"n_fft": 8192, "hop_length": 1024, "dim_f": 4096, "chunk_size": 261120}
MDX23C: dict[str, tuple[dict[str, Any], tuple[str, ...], bool, str]] = {
    "MDX23C-8KFFT-InstVoc_HQ.ckpt": (_8K, _VOCALS, False, "model_2_stem_full_band_8k.yaml of UVR"),
    "model_mdx23c_ep_168_sdr_7.0207.ckpt": (
        _8K, ("bass", "drums", "vocals", "other"), False, "config_musdb18_mdx23c.yaml of the release",
    ),
    "dereverb_mdx23c_sdr_6.9096.ckpt": (_8K | {"num_overlap": 4}, _DRY, False, WEBUI),
    "aufr33-jarredou_DrumSep_model_mdx23c_ep_141_sdr_10.8059.ckpt": (
        _2K | {"num_overlap": 4}, ("kick", "snare", "toms", "hi_hat", "ride", "crash"), False, WEBUI,
    ),
    "drumsep_5stems_mdx23c_jarredou.ckpt": (
        _2K | {"chunk_size": 523776}, ("kick", "snare", "toms", "hi_hat", "cymbals"), False, SIZE,
    ),
    "model_mdx23c_ep_271_l1_freq_72.2383.ckpt": (_2K | {"num_overlap": 4}, ("centre", "sides"), True, WEBUI),
    "gilliaan_mdx23c_centerwide_v1.ckpt": (_2K, ("sides", "centre"), True, SIZE),
}  # fmt: skip
_SCNET: dict[str, Any] = {
    "audio_channels": 2, "nfft": 4096, "hop_size": 1024, "win_size": 4096, "normalized": True, "compress": 4,
    "conv_kernel": 3, "expand": 1, "band_stride": [1, 4, 16], "band_kernel": [3, 4, 16], "conv_depths": [3, 2, 1],
    "chunk_size": 485100,
}  # fmt: skip
_WIDE: dict[str, Any] = _SCNET | {"dims": [4, 64, 128, 256]}
_RELEASE = "the yaml of the release, as other programs repeat it; the file's size confirms it"
_FOUR = ("drums", "bass", "other", "vocals")
SCNET: dict[str, tuple[dict[str, Any], tuple[str, ...], bool, str]] = {
    "scnet_checkpoint_musdb18.ckpt": (
        _SCNET | {"dims": [4, 32, 64, 128], "band_SR": [0.175, 0.392, 0.433], "num_dplayer": 6}, _FOUR, False, _RELEASE,
    ),
    "model_scnet_sdr_9.3244.ckpt": (
        _WIDE | {"band_SR": [0.225, 0.372, 0.403], "num_dplayer": 6}, _FOUR, False, _RELEASE,
    ),
    "SCNet-large_starrytong_fixed.ckpt": (
        _WIDE | {"band_SR": [0.225, 0.372, 0.403], "num_dplayer": 6, "normalize": True}, _FOUR, False, _RELEASE,
    ),
    "model_scnet_ep_54_sdr_9.8051.ckpt": (
        _WIDE | {"band_SR": [0.230, 0.370, 0.400], "num_dplayer": 8, "num_overlap": 4}, _FOUR, False,
        "mdx_c_configs/config_musdb18_scnet_xl.yaml of github.com/TRvlvr/application_data",
    ),
    "model_scnet_ep_36_sdr_10.0891.ckpt": (
        _WIDE | {"band_SR": [0.230, 0.370, 0.400], "num_dplayer": 8, "band_stride": [1, 4, 4],
                 "band_kernel": [3, 4, 4], "conv_depths": [3, 3, 3], "num_overlap": 4}, _FOUR, False, _RELEASE,
    ),
}  # fmt: skip
_APOLLO: dict[str, Any] = {"sr": 44100, "win": 20, "feature_dim": 256, "layer": 6, "num_overlap": 4}
_RESTORED = ("restored", "addition")
APOLLO: dict[str, tuple[dict[str, Any], tuple[str, ...], bool, str]] = {
    "pytorch_model.bin": (
        _APOLLO | {"chunk_size": 132300}, _RESTORED, True, "configs/apollo.yaml of github.com/JusperLee/Apollo",
    ),
    "Apollo_LQ_MP3_restoration.ckpt": (_APOLLO | {"chunk_size": 132300}, _RESTORED, True, WEBUI),
    "apollo_model_uni.ckpt": (_APOLLO | {"feature_dim": 384, "chunk_size": 882000}, _RESTORED, True, WEBUI),
}  # fmt: skip
DEMUCS: dict[str, tuple[str, dict[str, Any], tuple[str, ...], str]] = {
    "model_drumsep.th": (
        "hdemucs", {}, ("kick", "snare", "cymbals", "toms"), "the package itself; stems as in " + WEBUI,
    ),
    "model_vocals_htdemucs_sdr_8.78.ckpt": (
        "htdemucs", {"bottom_channels": 512, "dconv_mode": 3, "segment": 11}, _VOCALS, WEBUI,
    ),
}  # fmt: skip

# file -> architecture, config, stems, where the settings were read
_ELU: dict[str, Any] = {"conv_activation": "ELU", "deconv_activation": "ELU"}
_DEEZER = "configs of github.com/deezer/spleeter"
_BYTEDANCE: dict[str, Any] = {"sample_rate": 44100, "input_channels": 2, "output_channels": 2}
_BYTESEP = "scripts of github.com/bytedance/music_source_separation"
OTHERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...], str]] = {
    "2stems.tar.gz": (
        "spleeter", {"instruments": ["vocals", "accompaniment"]}, ("vocals", "accompaniment"), _DEEZER,
    ),
    "4stems.tar.gz": (
        "spleeter", {"instruments": ["vocals", "drums", "bass", "other"], **_ELU},
        ("vocals", "drums", "bass", "other"), _DEEZER,
    ),
    "pretrained_xumx_musdb18HQ.pth": (
        "x_umx", {
            "sources": ["bass", "drums", "vocals", "other"], "hidden_size": 512, "in_chan": 4096, "n_hop": 1024,
            "nb_channels": 2, "nb_layers": 3, "sample_rate": 44100, "max_bin": 1487, "bidirectional": True,
        },
        ("bass", "drums", "vocals", "other"), "egs/musdb18/X-UMX of github.com/asteroid-team/asteroid",
    ),
    "5stems.tar.gz": (
        "spleeter", {"instruments": ["vocals", "piano", "drums", "bass", "other"], "type": "unet.softmax_unet", **_ELU},
        ("vocals", "piano", "drums", "bass", "other"), _DEEZER,
    ),
    "resunet143_subbtandtime_vocals_8.7dB_500k_steps_v2.pth": (
        "bytesep", {"model_type": "ResUNet143_Subbandtime", **_BYTEDANCE, "targets": ["vocals"]}, ("vocals",), _BYTESEP,
    ),
    "resunet143_subbtandtime_accompaniment_16.4dB_500k_steps_v2.pth": (
        "bytesep", {"model_type": "ResUNet143_Subbandtime", **_BYTEDANCE, "targets": ["accompaniment"]},
        ("accompaniment",), _BYTESEP,
    ),
    "mobilenet_subbtandtime_vocals_7.2dB_500k_steps_v2.pth": (
        "bytesep", {"model_type": "MobileNet_Subbandtime", **_BYTEDANCE, "targets": ["vocals"]}, ("vocals",), _BYTESEP,
    ),
    "mobilenet_subbtandtime_accompaniment_14.6dB_500k_steps_v2.pth": (
        "bytesep", {"model_type": "MobileNet_Subbandtime", **_BYTEDANCE, "targets": ["accompaniment"]},
        ("accompaniment",), _BYTESEP,
    ),
}  # fmt: skip

# --- MDX-Net: n_fft, dim_f, dim_t, compensate, primary stem; the other stem or None
# mdx_model_data/model_data_new.json of github.com/TRvlvr/application_data at 0716a1bc, by UVR's hash of the file.

_MdxRow = tuple[int, int, int, float, str, "str | None"]
MDX: dict[str, _MdxRow] = {
    "UVR-MDX-NET-Inst_HQ_1.onnx": (6144, 3072, 256, 1.0, "instrumental", "vocals"),
    "UVR-MDX-NET-Inst_HQ_2.onnx": (6144, 3072, 256, 1.0, "instrumental", "vocals"),
    "UVR-MDX-NET-Inst_HQ_3.onnx": (6144, 3072, 256, 1.022, "instrumental", "vocals"),
    "UVR-MDX-NET-Inst_HQ_4.onnx": (5120, 2560, 256, 1.019, "instrumental", "vocals"),
    "UVR-MDX-NET-Inst_HQ_5.onnx": (5120, 2560, 256, 1.010, "instrumental", "vocals"),
    "UVR-MDX-NET-Voc_FT.onnx": (7680, 3072, 256, 1.021, "vocals", "instrumental"),
    "UVR_MDXNET_1_9703.onnx": (6144, 2048, 256, 1.03, "vocals", "instrumental"),
    "UVR_MDXNET_2_9682.onnx": (6144, 2048, 256, 1.035, "vocals", "instrumental"),
    "UVR_MDXNET_3_9662.onnx": (6144, 2048, 256, 1.035, "vocals", "instrumental"),
    "UVR_MDXNET_9482.onnx": (6144, 2048, 256, 1.035, "vocals", "instrumental"),
    "UVR_MDXNET_KARA.onnx": (6144, 2048, 256, 1.035, "lead_vocals", "no_lead_vocals"),
    "UVR_MDXNET_KARA_2.onnx": (5120, 2048, 256, 1.065, "no_lead_vocals", "lead_vocals"),
    "Kim_Vocal_1.onnx": (7680, 3072, 256, 1.043, "vocals", "instrumental"),
    "Kim_Vocal_2.onnx": (7680, 3072, 256, 1.009, "vocals", "instrumental"),
    "Kim_Inst.onnx": (7680, 3072, 256, 1.02, "instrumental", "vocals"),
    "Reverb_HQ_By_FoxJoy.onnx": (6144, 3072, 512, 1.035, "reverb", "dry"),
    "kuielab_a_vocals.onnx": (6144, 2048, 512, 1.035, "vocals", None),
    "kuielab_a_drums.onnx": (4096, 2048, 512, 1.035, "drums", None),
    "kuielab_a_bass.onnx": (16384, 2048, 512, 1.035, "bass", None),
    "kuielab_a_other.onnx": (8192, 2048, 512, 1.035, "other", None),
    "kuielab_b_vocals.onnx": (6144, 2048, 256, 1.035, "vocals", None),
    "kuielab_b_drums.onnx": (4096, 2048, 128, 1.035, "drums", None),
    "kuielab_b_bass.onnx": (16384, 2048, 256, 1.035, "bass", None),
    "kuielab_b_other.onnx": (8192, 2048, 256, 1.035, "other", None),
}
_FULL_BAND = "n_fft follows from its 3072 bins, which UVR calls full-band; compensate is not known."
MDX_NOTES = {
    "UVR-MDX-NET-Inst_HQ_1.onnx": _FULL_BAND,
    "UVR-MDX-NET-Inst_HQ_2.onnx": _FULL_BAND,
    "UVR_MDXNET_KARA_2.onnx": "What it leaves (no_lead_vocals) has the backing vocals.",
    "UVR_MDXNET_KARA.onnx": "What it leaves (no_lead_vocals) has the backing vocals.",
}
# width, blocks of the networks in those files
MDX_NETWORKS = {"kuielab_b_drums.onnx": {"g": 32, "L": 9}}

# --- VR: published sizes in KB are the files'; these say theirs (vr_model_data of UVR)

VR_WIDTHS = {
    "UVR-De-Echo-Aggressive.pth": (48, 128),
    "UVR-De-Echo-Normal.pth": (48, 128),
    "UVR-DeNoise.pth": (48, 128),
    "UVR-DeNoise-Lite.pth": (16, 128),
    "UVR-DeReverb-aufr33-jarredou_4band_v4_ms_fullband.pth": (32, 128),
    "Harmonic_Noise_Separation_yxlllc.pth": (32, 128),
}
VR_STEMS = {
    "5_HP-Karaoke-UVR.pth": ("no_lead_vocals", "lead_vocals"),
    "6_HP-Karaoke-UVR.pth": ("no_lead_vocals", "lead_vocals"),
    "UVR-BVE-4B_SN-44100-1.pth": ("backing_vocals", "lead_vocals"),
    "UVR-De-Echo-Aggressive.pth": ("dry", "echo"),
    "UVR-De-Echo-Normal.pth": ("dry", "echo"),
}
VR_NOTES = {
    "UVR-BVE-4B_SN-44100-1.pth": "Made for a vocals stem: it takes the backing vocals out of it.",
}

# --- what else entries say

AUTHORS = {
    "kimberley jensen": "Kimberley Jensen",
    "bas curtiz": "Bas Curtiz",
    "gabox": "Gabox",
    "sucial": "Sucial",
    "zfturbo": "ZFTurbo",
}

NOTES = {
    "pytorch_model.bin": ("Trained on what MP3 at 24 to 128 kbit/s left of music.",),
    "apollo_model_uni.ckpt": ("Called universal: for what any lossy codec left.",),
    "mel_band_roformer_karaoke_becruily.ckpt": (
        "backing_vocals is everything but the lead: of a song the accompaniment as well, of a vocals stem the backing "
        "vocals.",
    ),
    "model_bs_roformer_ep_937_sdr_10.5309.ckpt": ("It gives everything but drums and bass.",),
    "becruily_deux.ckpt": ("The weights are stored in half precision.",),
    "becruily_guitar.ckpt": ("The weights are stored in half precision.",),
    "aufr33-jarredou_DrumSep_model_mdx23c_ep_141_sdr_10.8059.ckpt": ("Made for a drums stem.",),
    "drumsep_5stems_mdx23c_jarredou.ckpt": ("Made for a drums stem.",),
    "model_drumsep.th": ("Made for a drums stem.", "The package's own names are those of Spanish."),
    "bs_roformer_male_female_by_aufr33_sdr_7.2889.ckpt": ("Made for a vocals stem.",),
    "model_chorus_bs_roformer_ep_267_sdr_24.1275.ckpt": ("Made for a vocals stem.",),
    "aspiration_mel_band_roformer_sdr_18.9845.ckpt": ("Made for a vocals stem: breath and other noise of the voice.",),
    "aspiration_mel_band_roformer_less_aggr_sdr_18.1201.ckpt": (
        "Made for a vocals stem: breath and other noise of the voice.",
    ),
    "Harmonic_Noise_Separation_yxlllc.pth": ("Made for a vocals stem: breath and other noise of the voice.",),
}
ARCHITECTURE_TITLES = {
    "apollo": "Apollo",
    "bs_roformer": "BS-RoFormer",
    "mel_band_roformer": "Mel-Band RoFormer",
    "mdx23c": "MDX23C (TFC-TDF v3)",
    "mdx_net": "MDX-Net",
    "scnet": "SCNet",
    "scnet_masked": "SCNet with masks",
    "spleeter": "Spleeter",
    "x_umx": "X-UMX",
    "vr": "VR",
    "bytesep": "bytesep",
    "htdemucs": "Hybrid Transformer Demucs (v4)",
    "hdemucs": "Hybrid Demucs (v3)",
}
PAPERS: dict[str, dict[str, Any]] = {
    "apollo": {
        "title": "Apollo: Band-sequence Modeling for High-Quality Music Restoration in Compressed Audio",
        "year": 2024,
        "url": "https://arxiv.org/abs/2409.08514",
    },
    "bs_roformer": {
        "title": "Music Source Separation with Band-Split RoPE Transformer",
        "year": 2024,
        "url": "https://arxiv.org/abs/2309.02612",
    },
    "mel_band_roformer": {
        "title": "Mel-Band RoFormer for Music Source Separation",
        "year": 2023,
        "url": "https://arxiv.org/abs/2310.01809",
    },
    "mdx23c": {
        "title": "Sound Demixing Challenge 2023 Music Demixing Track Technical Report: TFC-TDF-UNet v3",
        "year": 2023,
        "url": "https://arxiv.org/abs/2306.09382",
    },
    "mdx_net": {
        "title": "KUIELab-MDX-Net: A Two-Stream Neural Network for Music Demixing",
        "year": 2021,
        "url": "https://arxiv.org/abs/2111.12203",
    },
    "scnet": {
        "title": "SCNet: Sparse Compression Network for Music Source Separation",
        "year": 2024,
        "url": "https://arxiv.org/abs/2401.13276",
    },
    "spleeter": {
        "title": "Spleeter: a fast and efficient music source separation tool with pre-trained models",
        "year": 2020,
        "url": "https://doi.org/10.21105/joss.02154",
    },
    "x_umx": {
        "title": "All for One and One for All: Improving Music Separation by Bridging Networks",
        "year": 2021,
        "url": "https://arxiv.org/abs/2010.04228",
    },
    "bytesep": {
        "title": "Decoupling Magnitude and Phase Estimation with Deep ResUNet for Music Source Separation",
        "year": 2021,
        "url": "https://arxiv.org/abs/2109.05418",
    },
    "htdemucs": {
        "title": "Hybrid Transformers for Music Source Separation",
        "year": 2023,
        "url": "https://arxiv.org/abs/2211.08553",
    },
    "hdemucs": {
        "title": "Hybrid Spectrogram and Waveform Source Separation",
        "year": 2021,
        "url": "https://arxiv.org/abs/2111.03600",
    },
}
PAPERS["scnet_masked"] = PAPERS["scnet"]
MUSDB = "MUSDB18-HQ, a data set for non-commercial research"
TRAINING_DATA = {
    "pytorch_model.bin": "MUSDB18-HQ and MoisesDB, data sets for non-commercial research",
    "model_bs_roformer_ep_17_sdr_9.6568.ckpt": MUSDB,
    "model_mdx23c_ep_168_sdr_7.0207.ckpt": MUSDB,
    "scnet_checkpoint_musdb18.ckpt": MUSDB,
    "model_scnet_sdr_9.3244.ckpt": MUSDB,
    "SCNet-large_starrytong_fixed.ckpt": MUSDB,
    "model_scnet_ep_54_sdr_9.8051.ckpt": MUSDB,
    "model_scnet_ep_36_sdr_10.0891.ckpt": MUSDB,
    "pretrained_xumx_musdb18HQ.pth": MUSDB,
    "model_mel_band_roformer_ep_314_sdr_7.9825.ckpt": "MoisesDB, a data set under CC BY-NC-SA 4.0",
    "2stems.tar.gz": "songs of Deezer's catalogue (internal)",
    "4stems.tar.gz": "songs of Deezer's catalogue (internal)",
    "5stems.tar.gz": "songs of Deezer's catalogue (internal)",
}
_MEDIANS = "SDR of museval v4: median over 1 s frames, then median over tracks"
PROTOCOLS = {
    "MVSep Multisong (100 x 1 min), global SDR": "MVSep Multisong, 100 excerpts of one minute, global SDR",
    "MVSep quality checker entry": "MVSep quality checker, SDR as listed by splifft",
    "MUSDB18-HQ test": "MUSDB18-HQ test, SDR of the MSST table (no medians)",
    "MUSDB18 test, museval median/median": "MUSDB18 test set, 50 tracks, " + _MEDIANS,
    "MUSDB18-HQ test, museval median/median": "MUSDB18-HQ test set, 50 tracks, " + _MEDIANS,
    "MUSDB18 test": "MUSDB18 test, SDR as the authors state it, protocol not stated",
}

# What "auto" means for stems that had no model before: qualities, stems, entry. Added after the others where the
# registry has no preset of that model and quality; what was changed there by hand stays.
# Models that were trained on a stem (drums, vocals) have chains instead, written into the registry by hand.
PRESETS: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (("balanced",), ("lead_vocals", "no_lead_vocals"), "mdx_kara_2"),
    (("best",), ("lead_vocals",), "mel_roformer_karaoke_becruily"),
    (("balanced",), ("lead_vocals",), "mel_roformer_karaoke_becruily"),
    (("balanced",), ("dry", "reverb"), "mdx23c_dereverb"),
    (("best",), ("dry",), "mel_roformer_dereverb"),
    (("best",), ("dry", "reverb"), "mdx23c_dereverb"),
    (("balanced", "best"), ("dry", "echo"), "vr_de_echo_normal"),
    (("balanced",), ("noise", "clean"), "vr_denoise"),
    (("best",), ("clean",), "mel_roformer_denoise"),
    (("best",), ("noise", "clean"), "vr_denoise"),
    (("balanced", "best"), ("crowd",), "mel_roformer_crowd"),
    (("balanced", "best"), ("no_woodwinds", "woodwinds"), "vr_17_hp_wind_inst"),
    (("balanced", "best"), ("restored",), "apollo_lq_mp3"),  # its licence is stated, its file's hash known
)
