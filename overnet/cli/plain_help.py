"""Commands whose help is plain text of 80 columns, with the options under headings of what one wants to do.

Rich would draw the same headings, but loading it takes longer than everything else that ``--help`` does.
"""

from typing import Any

from typer.core import TyperCommand, TyperGroup

_COLUMN = 24  # the widest name of an option that has its text beside it, and not below
_GENERAL = "General"
_COMPLETION = ("install_completion", "show_completion")


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Write the arguments, then the options by their `rich_help_panel`, in the order of the first of each."""
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    general = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        # Programs that are one command take these too; the help of `overnet` has them.
        if record is None or (parameter.name in _COMPLETION and not hasattr(command, "commands")):
            continue
        if parameter.param_type_name == "argument":
            panels["Arguments"].append((parameter.metavar or parameter.name.upper(), record[1]))
        elif panel := getattr(parameter, "rich_help_panel", None):
            panels.setdefault(panel, []).append(record)
        else:
            general.append(record)
    formatter.write_paragraph()
    for title, records in {**panels, _GENERAL: general}.items():
        if records:
            formatter.write_heading(title)
            with formatter.indentation():
                formatter.write_dl(records, col_max=_COLUMN)


class PlainCommand(TyperCommand):
    """A command with grouped options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options under their headings."""
        _write_options(self, ctx, formatter)


class PlainGroup(TyperGroup):
    """A program of several commands, whose texts are wrapped, and not cut."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the options."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, (each.help or "").partition("\n")[0]) for name, each in self.commands.items()])
        _write_options(self, ctx, formatter)


class SeveralValuesCommand(PlainCommand):
    """A command without arguments, whose repeatable options also take several values at once: ``--scale 2 3 4``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``--scale 2 3`` as ``--scale 2 --scale 3``."""
        repeatable = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        expanded: list[str] = []
        for word in args:
            # A value that follows another value.
            if not word.startswith("-") and len(expanded) > 1 and expanded[-2] in repeatable:
                expanded.append(expanded[-2])
            expanded.append(word)
        return super().parse_args(ctx, expanded)
