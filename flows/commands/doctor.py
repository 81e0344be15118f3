"""`tutelage doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.project import project_options


@click.command()
@project_options
@click.option("--imports/--no-imports", default=True, help="Also import torch and vLLM; takes up to a minute.")
@click.option("--end-orphans", is_flag=True, help="End the processes that an earlier run left behind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def doctor(config: Path | None, home: Path | None, imports: bool, end_orphans: bool, as_json: bool) -> None:
    """Check this machine and this project.

    Prints a fix for whatever is wrong. Ends with status 10 when something fails, 0 otherwise.
    """
    from dataclasses import asdict

    from data_catalog.errors import MachineError
    from flows.console import print_json
    from flows.doctor import Finding, Health, examine
    from flows.doctor import end_orphans as end_all
    from flows.project import known_home

    place = known_home(config, home)
    if end_orphans and place is not None:
        click.echo(f"{end_all(place)} orphaned process groups ended", err=True)
    findings: list[Finding] = []
    for finding in examine(place, imports=imports):
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.health.value:<5} {finding.check:<14} {finding.detail}")
            if finding.fix:
                click.echo(f"      {'':<14} fix: {finding.fix}")
    if as_json:
        print_json([asdict(finding) for finding in findings])
    failed = [finding.check for finding in findings if finding.health is Health.FAIL]
    if failed:
        raise MachineError(
            f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}",
            next_step="apply the fixes above, then run it again",
        )
