"""The command `ctxext push`."""

from pathlib import Path
from typing import Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._output import out, print_json, say_warnings, table
from ctxext.cli._progress import progress

_COMMIT = "The commit"


def command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder that finetune, merge or extend wrote.", show_default=False
        ),
    ],
    repo_id: Annotated[
        str,
        typer.Option(
            "--repo-id", metavar="NAME", help="Repository, as org/name; made when missing."
        ),
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model",
            metavar="NAME",
            help="Hub id of the base, when it was a local copy. [default: the run's]",
        ),
    ] = None,
    evaluations: Annotated[
        list[Path] | None,
        typer.Option(
            "--eval",
            metavar="DIR",
            help="Evaluation to show, with all its models; may be given several times. [default: "
            "those in RUN, this model and its base]",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TEXT",
            help="Of the Hub. [default: HF_TOKEN or the stored login]",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the card, list the files, upload nothing.")
    ] = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision",
            metavar="NAME",
            help="Branch to commit to; made when missing. [default: main]",
            rich_help_panel=_COMMIT,
        ),
    ] = None,
    commit_message: Annotated[
        str | None,
        typer.Option(
            "--commit-message",
            metavar="TEXT",
            help="Of the commits. [default: Upload with ctxext]",
            rich_help_panel=_COMMIT,
        ),
    ] = None,
    create_pr: Annotated[
        bool,
        typer.Option(
            "--create-pr",
            help="Open a pull request instead of committing.",
            rich_help_panel=_COMMIT,
        ),
    ] = False,
) -> None:
    """Upload weights, adapter and a model card made of what was measured to the Hub.

    The card's perplexities come from eval-ppl runs inside the folder (--output-dir RUN/eval) that
    measured this very checkpoint. A push that was cut goes on when it is run again.

    Example: ctxext push runs/qwen-128k-ft --repo-id you/Qwen2.5-7B-128k --private --dry-run
    """
    from ctxext.api.push import push

    with progress(quiet=quiet) as listen:
        result = push(
            run,
            repo_id=repo_id,
            private=private,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            base_model=base_model,
            evaluations=evaluations or (),
            token=token,
            dry_run=dry_run,
            on_progress=listen,
        )
    if json:
        print_json(result)
    else:
        table(
            f"files of {result.repo_id}",
            ("file", "bytes"),
            [(file.path, f"{file.bytes:,}") for file in result.files],
        )
        console = out()
        console.print(f"card: {result.card}")
        console.print(
            "dry run: nothing was uploaded" if result.dry_run else f"pushed: {result.url}",
        )
    say_warnings(result.warnings)
