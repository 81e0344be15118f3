"""`tutelage compare`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.project import project_options


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write one offline HTML page.")
@click.option("--limit", default=5, show_default=True, type=click.IntRange(min=0), help="Flipped answers per suite.")
@project_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def compare(
    first: str, second: str, html: Path | None, limit: int, config: Path | None, home: Path | None, as_json: bool
) -> None:
    """Compare two models: scores, flipped answers, training data.

    A and B are model versions (an id, the beginning of one, or a stage such as `production`), training runs
    (`run-...`), or `base`: the model that the other was trained from. B is measured against A, on the samples that both
    were asked, by the paired statistics of the gates. Asks no model anything.
    """
    from data_catalog.catalogue import Catalogue
    from flows.comparison import compare as compare_two
    from flows.comparison import comparison_lines, comparison_values, score_table, title_lines
    from flows.console import print_json, print_table
    from flows.project import catalogue_home
    from flows.report import write_comparison

    data = compare_two(Catalogue(catalogue_home(config, home)), first, second)
    if html is not None:
        write_comparison(html, data)
    if as_json:
        print_json(comparison_values(data))
    else:
        click.echo("\n".join(title_lines(data)))
        print_table(*score_table(data))
        click.echo("\n".join(comparison_lines(data, most=limit)))
    if html is not None:
        click.echo(f"page  {html}", err=True)
