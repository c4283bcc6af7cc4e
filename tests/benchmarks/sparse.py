"""What `extend` and `inspect` cost on 16 GB of weights that are not there: headers, and holes.

    python tests/benchmarks/sparse.py            (seconds; a few MiB of disk)

A Llama of 8 B parameters in bfloat16, four shards of sparse safetensors (`truncate`): every byte of
a header is real, the rest are holes that no disk holds. Whole processes by the operating system's
accounting: wall seconds, CPU seconds, peak memory. Prints Markdown; a folder's path keeps it there.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from static import CTXEXT, cost

sys.path.append(str(Path(__file__).parents[1]))
from support.sparse import make_sparse


def main():
    root = Path(tempfile.mkdtemp(prefix="ctxext-sparse-", dir=(sys.argv[1:] or [None])[0]))
    base, out = root / "base", root / "out"
    try:
        size = make_sparse(base)
        print(f"{size / 1e9:.1f} GB of weights, four shards\n")
        print("| command | wall s | cpu s | peak MiB |\n| --- | --- | --- | --- |")
        nothing = [sys.executable, "-c", "import typer, rich"]
        commands = {
            "`import typer, rich` (of which every command is made)": nothing,
            "`ctxext extend --target 128k`": [
                *CTXEXT,
                "extend",
                base,
                "--target",
                "128k",
                "-o",
                out,
            ],
            "`ctxext inspect`": [*CTXEXT, "inspect", base],
            "`ctxext inspect --target 128k`": [*CTXEXT, "inspect", base, "--target", "128k"],
        }
        for name, command in commands.items():
            got = cost(command, 7, out)
            print(
                f"| {name} | {got.wall_seconds:.2f} | {got.cpu_seconds:.2f} | {got.peak_mib:.0f} |"
            )
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
