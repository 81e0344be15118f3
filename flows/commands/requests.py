"""`tutelage requests` and `tutelage reparse`: what was asked of the teacher, and what is made of its answers now."""

from __future__ import annotations

from pathlib import Path

import click

from flows.commands.run import CONFIG

MAX_LINES = 20
"""Answers that `reparse` shows one by one."""


@click.command()
@CONFIG
@click.option("--release", is_flag=True, help="Let the next run ask the quarantined requests again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def requests(config: Path, release: bool, as_json: bool) -> None:
    """Show what was asked of the teacher and what came of it.

    Per recipe (or check) and template: requests, answers, tokens, failures with their reasons, and how long ago. A
    request that crashes the teacher's server time and again, while others are answered, is quarantined: the runs go on
    without it.
    """
    from data_catalog.catalogue import Catalogue
    from flows.console import print_json, print_table
    from flows.project import catalogue_home
    from flows.request_table import counts_table, failures_table

    catalogue = Catalogue(catalogue_home(config))
    if release:
        count = catalogue.release_requests()
        click.echo(f"released {count:,} requests; the next run asks them again", err=True)
    log = catalogue.request_log()
    if as_json:
        print_json(log.model_dump(mode="json"))
        return
    print_table(*counts_table(log, catalogue.clock()))
    if log.failures:
        click.echo()
        print_table(*failures_table(log, catalogue.clock()))


@click.command()
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def reparse(config: Path, as_json: bool) -> None:
    """Parse the stored answers again, without asking anybody.

    For when a recipe's parser has changed: shows per recipe how many answers give the same item as before, a new one,
    another one, or none any more, and stores the new ones. Raw answers are never touched. `tutelage refresh` then
    filters what has changed and writes the next dataset versions.
    """
    from data_catalog.catalogue import Catalogue
    from flows.console import print_json, print_table
    from flows.project import configured_recipe_files, run_project
    from flows.reparse import lines, table
    from flows.reparse import reparse as parse_again
    from generators.recipes import recipes_of
    from generators.specs import RecipeSpec

    project = run_project(config)
    recipes = recipes_of([RecipeSpec(recipe=str(path)) for path in configured_recipe_files(project)])
    report = parse_again(Catalogue(project.home), recipes)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    print_table(*table(report))
    for line in lines(report.answers[:MAX_LINES]):
        click.echo(line)
    if len(report.answers) > MAX_LINES:
        click.echo(f"{len(report.answers) - MAX_LINES:,} more; --json shows them all")
    if report.answers:
        click.echo(f"\nstored {report.stored:,} items\nnext  tutelage refresh {config}")
