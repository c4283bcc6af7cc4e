"""Files to a repository of the Hub: large ones first, config and card last.

A repository looks complete to nobody before it is, and what was uploaded once is not sent again:
after a cut, the same call goes on.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ctxext.checkpoints.hub import NOT_OF_A_HUB, HubAnswer, asking_hub, no_hub
from ctxext.errors import BadInput, CtxextError, first_line
from ctxext.progress import Progress, silent

LARGE = (".safetensors",)


@dataclass(frozen=True)
class Item:
    """A file to upload: where it goes (forward slashes), and its path here or its content."""

    path: str
    source: Path | bytes

    @property
    def bytes(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


def upload(
    items: Sequence[Item],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload with ctxext",
    create_pr: bool = False,
    token: str | None = None,
    on_progress: Progress = silent,
) -> str:
    """Create the repository if needed and commit the files, weights before the rest.

    Args:
        private: False = public, or what the organisation's settings say.
        revision: branch to commit to; it is made when it does not exist.
        create_pr: open a pull request instead of committing.
        token: None = HF_TOKEN or the stored login.

    Returns:
        URL of the last commit.

    Raises:
        BadInput: no login, no right to write, an impossible name.
        CtxextError: the network or the Hub failed; what is there already stays.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # `on_progress` tells how far it is
    api = HfApi(token=token, library_name="ctxext")
    large = [i for i in items if i.path.endswith(LARGE)]
    small = [i for i in items if not i.path.endswith(LARGE)]
    total = sum(i.bytes for i in items)
    with _sentences(repo_id), asking_hub(upload=True):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        branch, opened, done, url = revision, False, 0, ""
        for part, what in ((large, "weights"), (small, "config, tokenizer and card")):
            operations = []
            for item in part:
                operation = CommitOperationAdd(item.path, _readable(item.source))
                api.preupload_lfs_files(
                    repo_id, [operation], revision=branch, create_pr=create_pr and not opened,
                    free_memory=False,
                )  # fmt: skip
                operations.append(operation)
                done += item.bytes
                on_progress("push", done, total, item.path)
            if not operations:
                continue
            commit = api.create_commit(
                repo_id,
                operations,
                commit_message=f"{message} ({what})",
                revision=branch,
                create_pr=create_pr and not opened,
            )
            url = commit.commit_url
            if create_pr and not opened:
                branch, opened = commit.pr_revision, True
    return url


def _readable(source: Path | bytes) -> str | bytes:
    return source if isinstance(source, bytes) else str(source)


@contextmanager
def _sentences(repo_id: str) -> Iterator[None]:
    """What the Hub or the network say, as one sentence with the way out."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # httpx's or httpx2's, whichever huggingface_hub uses
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    again = "run the same command again: what is uploaded already is not sent twice"
    try:
        yield
    except HFValidationError as error:
        raise BadInput(f"--repo-id {repo_id} is no repository name: {first_line(error)}") from error
    except LocalTokenNotFoundError as error:
        raise BadInput(
            "nobody is logged in to the Hub", "hf auth login, or set HF_TOKEN"
        ) from error
    except OfflineModeIsEnabled as error:
        raise BadInput("HF_HUB_OFFLINE is set, so nothing can be pushed", "unset it") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
            raise BadInput(
                f"the Hub refuses to write to {repo_id} (status {status})",
                "use a token with write access: hf auth login, or HF_TOKEN",
            ) from error
        raise CtxextError(f"pushing to {repo_id} failed: {first_line(error)}", again) from error
    except HubAnswer as error:
        raise CtxextError(f"pushing to {repo_id} failed: {error}", again) from error
    except CtxextError:
        raise
    except (OSError, HTTPError, RuntimeError) as error:  # RuntimeError: an upload that was cut
        raise CtxextError(f"pushing to {repo_id} failed: {first_line(error)}", again) from error
    except NOT_OF_A_HUB as error:
        raise no_hub(f"pushing to {repo_id} failed", error) from error
