"""`unmix doctor`: try every part of the installation and say what is broken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from unmixcli.cli import _terminal

if TYPE_CHECKING:
    from unmixcli.doctor import Finding


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with all findings.")
@_terminal.verbosity_options
def doctor(as_json: bool) -> None:
    """Prove that unmix works here: libraries, devices, formats, folders, models.

    Takes a few seconds, fetches nothing and leaves nothing behind. The exit code is 1 if something is broken.
    """
    from unmixcli.doctor import examine

    findings: list[Finding] = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            _show(finding)
    broken = [finding.name for finding in findings if finding.status == "broken"]
    warnings = sum(finding.status == "warning" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not broken, "findings": [found.as_json() for found in findings]}, indent=2))
    elif broken:
        _terminal.result(f"{len(broken)} broken: {', '.join(broken)}")
    elif _terminal.verbosity() >= 0:
        _terminal.result("everything works" + (f", {warnings} warning(s)" if warnings else ""))
    click.get_current_context().exit(1 if broken else 0)


def _show(finding: Finding) -> None:
    if finding.status == "ok" and _terminal.verbosity() < 0:
        return
    timing = f"  [{finding.seconds:.2f} s]" if _terminal.verbosity() > 0 else ""
    _terminal.result(f"{finding.status:8} {finding.name:16} {_terminal.plain(finding.message)}{timing}")
    if finding.hint:
        _terminal.result(f"{'':8} {'':16} try: {_terminal.plain(finding.hint)}")
