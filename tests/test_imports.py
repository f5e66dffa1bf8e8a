"""Imports point one way, and the quick commands import nothing slow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "unmixcli"

# The direction of imports: a module may import its own layer and those before it. What is not named here belongs to
# the top of the package (`__init__`) and may be imported by everybody.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "options", "progress"),
    ("paths", "naming", "entry", "device", "streams"),
    ("spectrum", "audio", "segment", "stems", "models", "postfilters", "shifts", "ensemble", "quantized",
     "wire", "onnx_read", "crc32c", "tensorflow_bundle"),
    ("registry", "registry_parse", "registry_query", "published_config", "user_models", "download", "fetch", "mirrors",
     "cache", "checkpoint", "checkpoint_read", "unpickle"),
    ("runner", "sinks", "pipeline", "lockstep", "members", "chain", "chain_run", "separator"),
    ("record", "inputs", "resume", "batch_plan", "batch", "karaoke", "doctor", "evaluation", "training", "remote"),
    ("cli",),
)  # fmt: skip
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FORBIDDEN_TOP = {"audio": {"torch"}, "models": {"soundfile", "av"}}
HEAVY = ("torch", "numpy", "av", "librosa", "soundfile", "scipy", "rich", "requests")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Full names of everything a module imports at run time, inside functions as well."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    assert part in RANK, f"{part} has no layer: give it one in this file"
    for name in imported(path):
        pieces = name.split(".")
        if pieces[0] == "unmixcli" and len(pieces) > 1 and pieces[1] in RANK:
            assert RANK[pieces[1]] <= RANK[part], f"{path.name} imports {name}"
            assert not (part == "models" and pieces[1] == "audio"), f"{path.name}: models don't import audio"
        assert pieces[0] not in FORBIDDEN_TOP.get(part, set()), f"{path.name} imports {name}"
        assert not (pieces[0] in ("click", "rich") and part != "cli"), f"{path.name}: only cli/ speaks"


@pytest.mark.parametrize(
    "code",
    [
        "import unmixcli",
        "from unmixcli.cli import cli; cli.main(['--help'], standalone_mode=False)",
        "from unmixcli.cli import cli; cli.main(['separate', '--help'], standalone_mode=False)",
        "from unmixcli.cli import cli; cli.main(['models', 'list'], standalone_mode=False)",
    ],
)
def test_quick_commands_import_nothing_slow(code: str) -> None:
    check = f"{code}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=60, check=True
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"
