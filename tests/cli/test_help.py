"""`--help` at usual widths: no name is cut, flags take no value, defaults and brackets stand."""

import re
from itertools import takewhile

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ctxext.cli.main import command_line
from support.command import run_ctxext

GROUP = get_command(command_line())
COMMANDS = sorted(GROUP.commands)
ROW = re.compile(r"│ [* ]? *(?=-)")  # of an option; other lines of a panel go on with one


def help_of(*command, columns):
    done = CliRunner().invoke(command_line(), [*command, "--help"], env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return re.sub(r"\x1b\[[0-9;]*m", "", done.output)


def rows_of(printed):
    """{names of an option: the words beside them}, put together from all lines of a row."""
    rows = []
    for line in printed.splitlines():
        if ROW.match(line):
            rows.append("")
        if line.startswith("│") and rows:
            rows[-1] += " " + line.strip("│* ")
        elif line.startswith("╰"):
            rows.append("")
    found = {}
    for row in filter(None, rows):
        words = row.split()
        names = list(takewhile(lambda word: word.startswith("-"), words))
        found[",".join(names)] = " ".join(words[len(names) :])
    return found


def names_in(rows):
    return {name for names in rows for name in names.split(",")}


@pytest.mark.parametrize("columns", [80, 120])
def test_the_help_of_all(columns):
    printed = help_of(columns=columns)
    assert not {"…", "<"} & set(printed)
    assert names_in(rows_of(printed)) >= {"--version", "--help"}
    for command in COMMANDS:
        assert re.search(rf"^│ {command} ", printed, re.MULTILINE), command


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command(command, columns):
    printed = help_of(command, columns=columns)
    assert "…" not in printed
    assert not re.search(r"<[a-z]+(\[[a-z]+\])?>", printed)  # a type of Python's
    rows = rows_of(printed)
    options = [p for p in GROUP.commands[command].params if p.param_type_name == "option"]
    declared = [{*option.opts, *option.secondary_opts} for option in options]
    assert names_in(rows) == {"--help"}.union(*declared)
    for option, names in zip(options, declared, strict=True):
        (text,) = (text for shown, text in rows.items() if set(shown.split(",")) == names)
        assert "<" not in text, option.name  # a type of Python is nothing to read
        if option.is_flag:
            continue
        assert text.startswith(f"{option.metavar} "), option.name
        if option.default not in (None, ()):
            assert text.endswith(f"[default: {option.default}]"), option.name
        elif "[default: " in option.help:  # decided later, and said in words
            assert re.search(r"\[default: .+\]$", text), option.name
    assert names_in(rows_of(printed.split("─ Options")[1].split("╰")[0])) >= {"--json", "--help"}


def test_defaults_of_a_recipe_and_those_decided_later():
    rows = rows_of(help_of("finetune", columns=80))
    assert rows["--steps"] == "N Optimizer steps. [default: 200]"
    assert rows["--lora-targets"].endswith("[default: q_proj, k_proj, v_proj, o_proj]")
    assert rows["--train-norms,--no-train-norms"] == "Norm weights too. [default: no]"
    assert rows["--tokenizer"].endswith("[default: MODEL's]")
    assert rows["--seq-length"].endswith("[default: the window]")


def test_square_brackets_stand_in_texts():
    assert "pip install 'ctxext[harness]'" in help_of("eval-harness", columns=120)
    assert "hf:NAME[:config[:split[:field]]]" in help_of("eval-ppl", columns=80)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_option_points_to_the_help_of_its_command(command):
    done = run_ctxext(command, "--no-such-option")
    assert done.returncode == 2
    first, last = done.stderr.splitlines()
    assert first.startswith("ctxext: No such option: --no-such-option")
    assert last == f"  try: ctxext {command} --help"


@pytest.mark.parametrize(
    ("arguments", "said", "command"),
    [
        (["eval-ppl", "m"], "Missing option '--data'.", "ctxext eval-ppl"),
        (["eval_ppl"], "Missing argument 'MODEL'.", "ctxext eval-ppl"),
        (["finetun"], "No such command 'finetun'. Did you mean 'finetune'?", "ctxext"),
        (["demo", "--seed", "4294967296"], "'--seed': 4294967296 is more than", "ctxext demo"),
        (["demo", "--seed", "-1"], "Invalid value for '--seed': ", "ctxext demo"),
    ],
)
def test_what_is_missing_or_wrong_points_there_too(arguments, said, command):
    done = run_ctxext(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.splitlines()[-1] == f"  try: {command} --help"


def test_nothing_asked_is_answered_by_the_help():
    done = run_ctxext()
    assert done.returncode == 2
    assert "eval-retrieval" in done.stdout
    assert done.stderr == ""


def test_a_switch_of_two_flags_is_turned_one_way(tmp_path):
    flags = ("--gradient-checkpointing", "--no-gradient-checkpointing")
    done = run_ctxext("finetune", tmp_path, *flags)
    assert done.returncode == 2
    assert "contradicts" in done.stderr
