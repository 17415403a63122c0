"""Console command `irae`: `irae train ...` is `python -m pipeline.train ...`."""

from __future__ import annotations

import difflib
import runpy
import sys
from importlib.metadata import version

COMMANDS = {
    "shard": "photographs to shards; `shard verify` and `shard inspect` a data set",
    "train": "shards to a trained run; the same command again resumes it",
    "tune": "hyperparameter search; `tune best` and `tune dashboard`",
    "evaluate": "PSNR, SSIM and the inverse's error of a run, image by image",
    "restore": "restore image files with a run",
    "report": "one HTML page on one or more runs",
    "reproduce": "the paper's tables, trained and evaluated by one recipe",
    "published": "published weights of DnCNN and FFDNet as a run",
    "doctor": "check this machine, a cluster or a cluster file",
    "guard": "spot preemption and idle shutdown on cloud machines",
    "demo": "all of it once on this machine, in a few minutes",
}
"""Command -> what it does, in one line."""
COMPLETION = """\
# Completion of irae in bash: eval "$(irae --print-completion)". In zsh, first: autoload -U bashcompinit && bashcompinit
_irae() {
    local command=${COMP_WORDS[1]}
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "COMMANDS" -- "$command"))
        return
    fi
    declare -F "_tyro_irae_$command" >/dev/null ||
        source <(irae "$command" --tyro-print-completion bash 2>/dev/null | sed '/^ *complete -F/d')
    declare -F "_tyro_irae_$command" >/dev/null && "_tyro_irae_$command"
}
complete -F _irae irae
""".replace("COMMANDS", " ".join(COMMANDS))
"""Completes the command itself; the options of a command by the script that tyro generates for it, once a shell."""


def main() -> None:
    """Run the command that the first argument names as `python -m pipeline.COMMAND` would."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in COMMANDS:
        from pipeline import cli

        cli.PROGRAM_PREFIX = "irae "
        del sys.argv[1]
        runpy.run_module(f"pipeline.{command}", run_name="__main__", alter_sys=True)
    elif command in ("-h", "--help"):
        print(usage())
    elif command == "--version":
        print(f"irae {version('irae-pipeline')}")
    elif command == "--print-completion":
        print(COMPLETION, end="")
    else:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(COMMANDS)}."
        print(f"error: there is no command {command!r}; {hint}", file=sys.stderr)
        sys.exit(2)


def usage() -> str:
    """Usage of `irae`: one line a command."""
    commands = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return (
        f"usage: irae COMMAND [OPTIONS]\n\n{commands}\n\n"
        "irae COMMAND --help shows a command's options; irae --version; irae --print-completion prints a shell script."
    )


if __name__ == "__main__":
    main()
