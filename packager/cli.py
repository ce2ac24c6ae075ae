"""The command group, the exit codes, and the one place where errors are printed."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from packager.errors import INTERRUPTED, TERMINATED, PackagerError, PlanRefused, ToolMissing

COMMANDS = (
    "demo",
    "build",
    "plan",
    "merge",
    "quantize",
    "template",
    "modelfile",
    "register",
    "verify",
    "report",
    "eval",
    "chat",
    "doctor",
    "fetch",
)
BUILD_EXTRA = (
    "gguf", "huggingface_hub", "llama_cpp", "numpy", "peft", "safetensors", "sentencepiece", "tokenizers", "torch",
    "transformers", "yaml",
)  # fmt: skip  # what only `ollama-packager[build]` installs
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Commands(click.Group):
    """Commands in the order a user meets them, each imported only when it is named or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"packager.commands.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_Commands, context_settings=HELP)
@click.version_option(package_name="ollama-packager", prog_name="packager")
def packager() -> None:
    """Turn a base model and a LoRA fine-tune into an Ollama model, and prove that it answers as it did in training.

    \b
    Start here:
      packager demo                          everything, on a small real model made on the spot
      packager plan  BASE ADAPTER -o DIR     what a build would do, and every problem it would meet
      packager build BASE ADAPTER -o DIR --name NAME
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with the documented exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    _let_threads_sleep()
    try:
        result = packager.main(args=arguments, prog_name="packager", standalone_mode=False)
    except PlanRefused as error:
        for problem in error.problems:
            _show(problem.message, problem.hint, problem.lines)
        sys.exit(error.exit_code)
    except PackagerError as error:
        _show(error.message, error.hint, error.lines)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _show(error.format_message(), _usage_hint(error))
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        _show("interrupted", "Run the same command again to continue.")
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in BUILD_EXTRA:
            _exit_with_bug(error)
        _show(f"this needs the package {error.name}, which is not installed", "pip install 'ollama-packager[build]'")
        sys.exit(ToolMissing.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  # the one place that turns a bug of ours into a report
        _exit_with_bug(error)
    sys.exit(result if isinstance(result, int) else 0)


def _exit_with_bug(error: Exception) -> NoReturn:
    from packager.bug_report import write_bug_report

    report = write_bug_report(error)
    _show(f"packager has a bug: {type(error).__name__}: {error}", f"Please report it, with the file {report}.")
    sys.exit(1)


def _show(message: str, hint: str, lines: tuple[str, ...] = ()) -> None:
    click.echo(click.style("error: ", fg="red", bold=True) + " ".join(message.split()), err=True)
    for line in lines:
        click.echo("  " + click.style(line, fg={"+": "green", "-": "red"}.get(line[:1])), err=True)
    if hint:
        click.echo(click.style("hint: ", fg="cyan") + hint, err=True)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else "packager --help"


def _let_threads_sleep() -> None:
    """Keep torch's and llama.cpp's threads from spinning while they wait, which on a busy machine makes both much slower.

    A few microseconds of it are cheaper than falling asleep: a verification of three quants takes a sixth less. Whoever has set
    OMP_WAIT_POLICY keeps it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(TERMINATED)
