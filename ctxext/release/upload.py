"""Upload files to a repository of the Hub: large ones first, config and card last.

A repository looks complete to nobody before it is, and what was uploaded once is not sent again:
after a cut, the same call goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Repository:
    """The repository that files go to.

    Attributes:
        private: False = public, or what the organisation's settings say.
        revision: branch to commit to; it is made when it does not exist.
        create_pr: open a pull request instead of committing.
        token: None = HF_TOKEN or the stored login.
    """

    id: str
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    token: str | None = None


def upload(
    items: Sequence[Item],
    repository: Repository,
    *,
    message: str = "Upload with ctxext",
    on_progress: Progress = silent,
) -> str:
    """Create the repository if needed and commit the files, weights before the rest.

    Returns:
        URL of the last commit.

    Raises:
        BadInput: no login, no right to write, an impossible name.
        CtxextError: the network or the Hub failed; what is there already stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # `on_progress` tells how far it is
    api = HfApi(token=repository.token, library_name="ctxext")
    large = [i for i in items if i.path.endswith(LARGE)]
    small = [i for i in items if not i.path.endswith(LARGE)]
    total = sum(i.bytes for i in items)
    with _sentences(repository.id), asking_hub(upload=True):
        api.create_repo(repository.id, private=repository.private or None, exist_ok=True)
        if repository.revision is not None and not repository.create_pr:
            api.create_branch(repository.id, branch=repository.revision, exist_ok=True)
        done, url = 0, ""
        for group, what in ((large, "weights"), (small, "config, tokenizer and card")):
            if not group:
                continue

            def sent(item: Item) -> None:
                nonlocal done
                done += item.bytes
                on_progress("push", done, total, item.path)

            commit = _commit(api, repository, group, f"{message} ({what})", sent)
            url = commit.commit_url
            if repository.create_pr:  # what follows goes into the pull request
                repository = replace(repository, revision=commit.pr_revision, create_pr=False)
    return url


def _commit(
    api: Any,
    repository: Repository,
    items: Sequence[Item],
    message: str,
    on_sent: Callable[[Item], None],
) -> Any:
    """Send files one by one, then commit them together."""
    from huggingface_hub import CommitOperationAdd

    where = {"revision": repository.revision, "create_pr": repository.create_pr}
    operations = []
    for item in items:
        operation = CommitOperationAdd(item.path, _readable(item.source))
        api.preupload_lfs_files(repository.id, [operation], free_memory=False, **where)
        operations.append(operation)
        on_sent(item)
    return api.create_commit(repository.id, operations, commit_message=message, **where)


def _readable(source: Path | bytes) -> str | bytes:
    return source if isinstance(source, bytes) else str(source)


@contextmanager
def _sentences(repo_id: str) -> Iterator[None]:
    """Turn what the Hub or the network say into one sentence with the way out."""
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
