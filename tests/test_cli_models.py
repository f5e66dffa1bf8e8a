"""`unmix models`, as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from test_download import BODY, SHA256, Site, good, make_entry, site

from unmixcli.cache import file_path
from unmixcli.cli import cli
from unmixcli.cli.models import models
from unmixcli.paths import cache_folder, user_models_folder
from unmixcli.registry import Registry, load_registry

__all__ = ["site"]  # a fixture


def unmix(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["models", *arguments], input=answer)


# What `verify` says of the weights in the package.
BUILT_IN = "ok       unmix_small  unmix_small.safetensors\n"


@pytest.fixture
def published(shared_data: Path) -> Path:
    return shared_data / "checkpoints" / "cac_tdc_17_vocals_top1.pt"


def test_every_command_and_option_has_help() -> None:
    for name, command in models.commands.items():
        assert command.help, name
        for option in command.params:
            if not hasattr(option, "opts") or option.param_type_name == "argument":
                continue
            assert getattr(option, "help", None), (name, option.name)
        assert unmix(name, "--help").exit_code == 0


def test_list_shows_all_models() -> None:
    result = unmix("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["NAME", "STEMS", "SIZE"]
    assert [line.split()[0] for line in lines[1:]] == [entry.name for entry in load_registry().entries]
    assert "recommended: umxhq" in result.stderr
    umxl = next(line for line in lines if line.startswith("umxl "))
    assert "CC-BY-NC-SA-4.0" in umxl
    assert " no " in umxl


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--stem", "bass", "--architecture", "open_unmix"], ["umxhq", "umx", "umxl"]),
        (["--stem", "bass", "--commercial-ok", "--architecture", "band_masks"], ["unmix_small"]),
        (["--stem", "speech", "--licence", "mit"], ["umxse"]),
        (["--stem", "bass", "--licence", "cc-by-nc-sa", "--architecture", "open_unmix"], ["umxl"]),
        (["--architecture", "scnet", "--max-size", "50MB"], ["scnet_small"]),
        (["--architecture", "scnet", "--max-size", "0.17 GB", "--sort", "name"],
         ["scnet_large", "scnet_large_starrytong", "scnet_small"]),
        (["--stem", "hi_hat", "--stem", "ride"], ["mdx23c_drumsep_6"]),
        (["--stem", "Speech"], ["umxse"]),
        (["--stem", "sides", "--stem", "centre", "--commercial-ok"], ["centre_extraction"]),
        (["--architecture", "tdc_unet"], ["cac_tdc_17"]),
        (["--installed"], ["unmix_small", "classical", "repet_sim", "harmonic_percussive", "centre_extraction", "repet",
                           "ft2d", "rpca", "nmf", "ica", "pca", "spectral_subtraction"]),
        (["--architecture", "open_unmix", "--stem", "bass", "--sort", "size"], ["umx", "umxhq", "umxl"]),
        (["--architecture", "open_unmix", "--stem", "bass", "--sort", "name"], ["umx", "umxhq", "umxl"]),
        (["--stem", "accompaniment", "--installed", "--sort", "parameters"],
         ["classical", "ft2d", "repet", "repet_sim", "rpca", "unmix_small"]),
        (["--stem", "vocals", "--installed", "--sort", "year"],
         ["ft2d", "repet", "repet_sim", "rpca", "classical", "unmix_small"]),
        (["--stem", "guitar", "--architecture", "htdemucs"], ["htdemucs_6s"]),
        (["--stem", "harpsichord"], []),
    ],
)  # fmt: skip
def test_list_filters_and_sorts(arguments: list[str], names: list[str]) -> None:
    assert [line.split()[0] for line in unmix("list", *arguments).stdout.splitlines()[1:]] == names
    assert [entry["name"] for entry in json.loads(unmix("list", "--json", *arguments).stdout)] == names


def test_list_is_sorted_by_score_within_one_protocol() -> None:
    result = unmix("list", "--sort", "score", "--protocol", "MULTISONG", "--stem", "vocals")
    assert "mean of vocals; MVSep Multisong, 100 excerpts of one minute, global SDR" in result.stderr
    head, *lines = result.stdout.splitlines()
    assert head.split()[:2] == ["NAME", "DB"]
    scores = [float(line.split()[1]) for line in lines]
    assert lines[0].split()[:2] == ["mel_roformer_kim", "10.98"]
    assert scores == sorted(scores, reverse=True)
    registry = load_registry()
    for line, score in zip(lines, scores, strict=True):
        published = [s for s in registry.get(line.split()[0]).scores if s.protocol.startswith("MVSep Multisong")]
        assert [s.values["vocals"] for s in published] == [score]
    values = json.loads(unmix("list", "--sort", "score", "--protocol", "multisong", "--json").stdout)
    assert [entry["name"] for entry in values][:1] == ["scnet_xl_ihf"], "the mean of four stems"
    assert values[0]["score"] == pytest.approx((9.68 + 11.58 + 11.94 + 6.48) / 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sort", "score"], "go together"),
        (["--protocol", "multisong"], "go together"),
        (["--sort", "score", "--protocol", "musdb18"], "protocols have 'musdb18' in them"),
        (["--sort", "score", "--protocol", "golden ears"], "no protocol has 'golden ears' in it"),
        (["--max-size", "large"], "'large' is no size"),
        (["--max-size", "1 TB"], "expected a number with MB or GB"),
    ],
)
def test_what_can_not_be_listed_is_a_usage_error(arguments: list[str], message: str) -> None:
    result = unmix("list", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_names_people_know_are_found_and_near_ones_suggested() -> None:
    registry = load_registry()
    for known, name in (
        ("model_bs_roformer_ep_317_sdr_12.9755.ckpt", "bs_roformer_ep317"),
        ("UVR-MDX-NET-Inst_HQ_3.onnx", "mdx_inst_hq_3"),
        ("UVR-MDX-NET-Inst_HQ_3", "mdx_inst_hq_3"),
        ("MelBandRoformer.ckpt", "mel_roformer_kim"),
        ("5_HP-Karaoke-UVR.pth", "vr_5_hp_karaoke"),
        ("MDX23C-8KFFT-InstVoc_HQ.ckpt", "mdx23c_instvoc_hq"),
    ):
        assert registry.get(known).name == name
    for wrong, near in (
        ("model_bs_roformer_ep_317", "bs_roformer_ep317"),
        ("UVR-MDX-NET-Inst_HQ3.onnx", "mdx_inst_hq_3"),
        ("mel_roformer_kimm", "mel_roformer_kim"),
        ("bs_rofomer_ep317", "bs_roformer_ep317"),
    ):
        result = unmix("info", wrong)
        assert result.exit_code == 2
        assert near in result.stderr


def test_list_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from unmixcli.cli import cli\n"
        "try: cli.main(['models', 'list', '--sort', 'score', '--protocol', 'multisong'])\n"
        "except SystemExit: pass\n"
        "try: cli.main(['models', 'list', '--installed'])\n"
        "finally: print([m for m in ('torch', 'numpy', 'av', 'librosa') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert "classical" in done.stdout


def test_info_says_everything_and_keeps_protocols_apart() -> None:
    result = unmix("info", "umxhq")
    assert result.exit_code == 0
    for words in (
        "vocals, drums, bass, other", "44100 Hz, 2 channels", "open_unmix", "hidden_size 512", "commercial use: yes",
        "Zenodo record 3370489", "MUSDB18-HQ", "10.21105/joss.01667", "35,637,796 bytes", "b62c91cedbc7a066f1778ead",
        "8d85a5bd… (only these digits are published)", "d918985fad0fedf6d9ce89e279aa7218",
        "https://zenodo.org/records/3370489/files/bass-8d85a5bd.pth", "museval v4", "vocals 6.25 dB",
        "no (would be ",
        "--quality fast",
    ):  # fmt: skip
        assert words in result.stdout, words
    assert "songs without repetition are not separated" in unmix("info", "repet_sim").stdout
    assert "Needs no repetition" in unmix("info", "harmonic_percussive").stdout
    one_each = {entry.architecture: entry for entry in load_registry().entries}
    for entry in one_each.values():
        values: dict[str, Any] = json.loads(unmix("info", entry.name, "--json").stdout)
        assert values["licence"]["source"]
        assert values["installed"] == all(file.package for file in entry.files)


def test_unknown_names_are_usage_errors_with_near_ones() -> None:
    for command in ("info", "download", "verify", "remove", "path"):
        result = unmix(command, "umxqh")
        assert result.exit_code == 2, command
        assert "error: there is no model 'umxqh'" in result.stderr
        assert "Did you mean umxhq" in result.stderr


def test_the_published_file_from_add_to_remove(published: Path) -> None:
    result = unmix("add", str(published))
    assert result.exit_code == 0
    assert "cac_tdc_17: known by its sha256" in result.stdout
    assert "45c7dd11479a4922119cafde0196304b39d240504ac52fbd07f8676ec32a9a0f" in result.stderr
    assert unmix("list", "--installed", "--stem", "vocals", "--architecture", "tdc_unet").stdout.count("\n") == 2
    where = unmix("path", "cac_tdc_17")
    assert Path(where.stdout.strip()).read_bytes() == published.read_bytes()
    assert unmix("download", "cac_tdc_17").exit_code == 0
    verified = unmix("verify")
    assert (verified.exit_code, verified.stdout) == (0, "ok       cac_tdc_17  cac_tdc_17_vocals_top1.pt\n" + BUILT_IN)

    # A disk that turns a bit of the original, then one of the converted copy
    original = cache_folder() / "models" / "cac_tdc_17" / published.name
    converted = next((cache_folder() / "tensors").glob("[!.]*"))
    for victim, line in ((converted, "The converted copy was deleted"), (original, "The file was deleted")):
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
        result = unmix("verify", "--json")
        assert result.exit_code == 1
        assert [c["state"] for c in json.loads(result.stdout) if line in c["detail"]] == ["damaged"]
        assert not victim.exists()
    assert unmix("verify").exit_code == 0, "what isn't there is not damaged"
    result = unmix("verify", "cac_tdc_17")
    assert result.exit_code == 1
    assert "missing" in result.stdout

    assert unmix("add", str(published)).exit_code == 0
    removed = unmix("remove", "cac_tdc_17")
    assert removed.stdout.count("deleted ") == 2
    assert unmix("path", "cac_tdc_17").exit_code == 1
    assert "nothing of it is on this machine" in unmix("remove", "cac_tdc_17").stderr


def test_a_model_of_the_users_own_is_asked_about_before_it_is_deleted(published: Path) -> None:
    assert unmix("add", str(published), "--name", "mine", "--licence", "CC0").exit_code == 0
    assert "licence       CC0" in unmix("info", "mine").stdout
    assert unmix("add", str(published), "--name", "mine").exit_code == 1
    assert unmix("remove", "mine", answer="n\n").exit_code == 130
    assert (user_models_folder() / "mine.json").exists()
    assert unmix("remove", "mine", "--yes").exit_code == 0
    assert list(user_models_folder().iterdir()) == []
    assert unmix("path", "--user").stdout.strip() == str(user_models_folder())


def test_a_broken_entry_of_the_user_can_be_removed(published: Path) -> None:
    user_models_folder().mkdir(parents=True)
    record = user_models_folder() / "mine.json"
    record.write_text("{")
    result = unmix("add", str(published), "--name", "mine")
    assert result.exit_code == 1
    assert "is there already and can't be used" in result.stderr
    assert record.read_text() == "{"
    assert unmix("remove", "mine", "--yes").exit_code == 0
    assert not record.exists()


def test_an_unknown_file_must_be_explained(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    result = unmix("add", str(tmp_path / "w.pth"))
    assert result.exit_code == 2
    assert "--like MODEL" in result.stderr
    result = unmix("add", str(tmp_path / "w.pth"), "--like", "cac_tdc_17", "--name", "mine")
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert load_registry().entries == load_registry(user=False).entries


def test_download_fetches_checks_and_reads(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_entry(site.url())
    real = load_registry()
    monkeypatch.setattr("unmixcli.registry.load_registry", lambda: Registry((*real.entries, toy), real.presets))
    site.behaviours["w.pth"] = good(BODY[:-1])
    result = unmix("download", "toy")
    assert result.exit_code == 1
    assert f"offers {len(BODY) - 1} bytes" in result.stderr
    site.behaviours["w.pth"] = good()
    result = unmix("download", "toy")
    assert "toy: licence unknown, commercial use unclear" in result.stderr
    assert result.exit_code == 1, "these bytes are no checkpoint"
    assert "is not a weights file" in result.stderr
    assert file_path(toy, toy.files[0]).exists()
    assert unmix("verify", "toy").stdout.startswith("ok")
    assert SHA256 in unmix("info", "toy").stdout


def test_download_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmixcli.download.reachable_urls", lambda urls, seconds=None: [])
    result = unmix("download", "umxhq", "classical")
    assert result.exit_code == 1
    assert "no connection to zenodo.org" in result.stderr
    assert "not fetched: umxhq" in result.stderr
    assert "classical: needs no files" in result.stdout
