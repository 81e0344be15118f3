"""The command `tutelage`.

A command's module is imported when that command is asked for, so `tutelage --help` answers at once: the table below
holds the one line that the overview shows, and a test compares it with the command's own help.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

import click

VERSION = "0.1.0"


@dataclass(frozen=True)
class Entry:
    """Where a command lives and what the overview says of it."""

    module: str
    attribute: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "run": Entry("flows.commands.run", "run", "Turn documents into a gated, registered model."),
    "refresh": Entry("flows.commands.run", "refresh", "Ask only for what is new or changed in the documents."),
    "preview": Entry("flows.commands.run", "preview", "Try the prompts and checks on a few chunks."),
    "check": Entry("flows.commands.run", "check", "Check a configuration and say what it would do."),
    "requests": Entry("flows.commands.requests", "requests", "Show what was asked of the teacher and what came of it."),
    "reparse": Entry("flows.commands.requests", "reparse", "Parse the stored answers again, without asking anybody."),
    "methods": Entry("flows.commands.methods", "methods", "Compare the fine-tuning methods on the student."),
    "inspect-batch": Entry(
        "flows.commands.inspect_batch",
        "inspect_batch",
        "Show a stage's tokens, roles and loss mask, and check them.",
    ),
    "models": Entry("flows.commands.models", "models", "List model versions and the stages they hold."),
    "approve": Entry("flows.commands.models", "approve", "Approve a model version for a stage, until a time."),
    "promote": Entry("flows.commands.models", "promote", "Let a stage name point to a model version."),
    "rollback": Entry("flows.commands.models", "rollback", "Put back what a stage held before."),
    "audit": Entry("flows.commands.audit", "audit", "Verify and show the registry's log."),
    "chat": Entry("flows.commands.chat", "chat", "Ask a registered model."),
    "serve-model": Entry(
        "flows.commands.serve_model", "serve_model", "Serve a stage's model over an OpenAI-compatible endpoint."
    ),
    "export": Entry("flows.commands.export", "export", "Write a MODEL in the form that another program reads."),
    "data": Entry("flows.commands.data", "data", "Look at dataset versions, compare, sample and export them."),
    "compare": Entry(
        "flows.commands.compare", "compare", "Compare two models: scores, flipped answers, training data."
    ),
    "overview": Entry(
        "flows.commands.overview", "overview", "Write the home page of a project: models, stages, gates, data, runs."
    ),
    "trace": Entry("flows.commands.trace", "trace", "Show what an id was made from and what was made of it."),
    "diagnose": Entry("flows.commands.diagnose", "diagnose", "Say why a model failed what it failed."),
    "forget": Entry("flows.commands.forget", "forget", "Keep a document out, and find the models that saw it."),
    "gc": Entry("flows.commands.gc", "gc", "List or delete what nothing needs any more."),
    "gate": Entry("flows.commands.gate", "gate", "Try a gate before it decides on anything."),
    "serve": Entry("flows.commands.serve", "serve", "Serve the flows: Prefect UI, typed forms, schedule."),
    "advise": Entry("flows.commands.advise", "advise", "Plan the training stages for a model, a machine and a goal."),
    "sweep": Entry("flows.commands.sweep", "sweep", "Try settings of a stage, and choose by the gate's metric."),
    "doctor": Entry("flows.commands.doctor", "doctor", "Check this machine and this project."),
    "sandbox": Entry("flows.commands.sandbox", "sandbox", "Make a new world for the offline sandbox."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a user's day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the command that was probably meant."""
        import difflib

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"commands: {', '.join(COMMANDS)}"
            ctx.fail(f"no command `{args[0]}`; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview from the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog="Start with: tutelage run CONFIG"
)
@click.version_option(VERSION, prog_name="tutelage")
def cli() -> None:
    """Turn a folder of documents into a small language model that has measurably learned them."""


def main() -> None:
    """Run the command line; a `TutelageError` becomes its message and its exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("\nstopped; run the same command to go on", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("\nstopped; what was done is kept: run the same command to go on", err=True)
        sys.exit(130)
    except Exception as error:
        from data_catalog.errors import TutelageError

        if not isinstance(error, TutelageError):
            raise
        click.echo(f"\n✗ {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
