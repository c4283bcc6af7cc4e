"""The launchers' files in recipes/: read by the launchers' own parsers."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

RECIPES = Path(__file__).parent.parent / "recipes"
COMMAND = re.compile(r"(?:accelerate launch|torchrun) ")


def ctxext_options():
    from typer.main import get_command

    from ctxext.cli.main import command_line

    command = get_command(command_line()).commands["finetune"]
    return {name for parameter in command.params for name in parameter.opts}


def check_ctxext(arguments):
    """What follows `-m ctxext` is a command line that ctxext would take."""
    assert arguments[0] == "finetune"
    used = {word for word in arguments if word.startswith("-")}
    assert used
    assert used <= ctxext_options(), used - ctxext_options()


@pytest.mark.parametrize(
    ("name", "kind", "machines", "processes"),
    [("1-gpu", "NO", 1, 1), ("8-gpus", "MULTI_GPU", 1, 8), ("2x8-gpus", "MULTI_GPU", 2, 16)],
)
def test_accelerate_files_start_what_their_names_say(name, kind, machines, processes):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    path = RECIPES / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert str(config.distributed_type.value) == kind
    assert (config.num_machines, config.num_processes) == (machines, processes)
    assert config.mixed_precision == "no"
    assert config.use_cpu is False
    text = re.sub(r"\\\n#", " ", path.read_text()).replace("\n#", "\n")
    commands = [line.strip() for line in text.splitlines() if COMMAND.match(line.strip())]
    commands = [c for c in commands if c.startswith("accelerate")]
    assert commands
    for command in commands:
        parsed = launch_command_parser().parse_args(shlex.split(command)[2:])
        assert parsed.config_file == f"recipes/accelerate/{name}.yaml"
        assert (parsed.module, parsed.training_script) == (True, "ctxext")
        check_ctxext(parsed.training_script_args)


def test_all_accelerate_files_are_tested():
    names = {path.stem for path in (RECIPES / "accelerate").iterdir()}
    assert names == {"1-gpu", "8-gpus", "2x8-gpus"}


def test_the_slurm_script_starts_one_launcher_a_node():
    from torch.distributed.run import get_args_parser

    path = RECIPES / "slurm" / "finetune.sbatch"
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    text = path.read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.startswith("srun torchrun")]
    line = line.replace("$SLURM_NNODES", "2").rstrip("& ")
    parsed = get_args_parser().parse_args(shlex.split(line)[2:])
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.rdzv_backend) == ("2", "8", "c10d")
    assert (parsed.module, parsed.training_script) == (True, "ctxext")
    check_ctxext([a for a in parsed.training_script_args if not a.startswith("${")])
