"""Push to the Hub: rights, changed files, one commit, one tag. All idempotent."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adapters.errors import UserError
from adapters.publish import bundle
from adapters.recipe.load import RecipeFile

WAITS: Final = (2.0, 8.0)
"""Seconds before the second and the third try of a push."""
WRITERS: Final = ("admin", "write", "contributor")


class HubError(Exception):
    """The Hub or the network failed; the same command continues the push. Exit code 1."""


@dataclass(frozen=True)
class Pushed:
    """Where a bundle is now."""

    repo: str
    url: str
    commit: str
    tag: str
    new: bool
    """Whether this push made a commit; the same content again makes none."""
    strangers: tuple[str, ...]
    """Files of the repository that are not the bundle's; they are left alone."""


def rights(repo: str) -> list[str]:
    """Why the Hub would refuse a push. Raises HubError when it cannot be asked."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set; unset it to push")
    if get_token() is None:
        return ["no Hub token was found: run `hf auth login`, or set HF_TOKEN"]
    api = HfApi()
    user: dict[str, Any] = {}
    try:
        user = api.whoami()
        api.auth_check(repo, write=True)
    except RepositoryNotFoundError:
        return _may_create(user, repo)
    except HfHubHTTPError as error:
        if _status(error) not in (401, 403):
            question = "whether we may write" if user else "who we are"
            raise HubError(f"the Hub answers {_status(error)} to the question {question}; try again later") from error
        if user:
            return [f"{user.get('name')} may not write to {repo}: ask its owner, or use a token with write permission"]
        return ["the Hub does not accept the token: run `hf auth login`, or set a valid HF_TOKEN"]
    except (_transport(), OSError) as error:
        raise HubError(f"the Hub at {api.endpoint} cannot be reached ({type(error).__name__})") from error
    return _token_writes(user, repo)


def _token_writes(user: dict[str, Any], repo: str) -> list[str]:
    token, owner = user.get("auth", {}).get("accessToken", {}), repo.partition("/")[0]
    name = repr(token.get("displayName", ""))
    if token.get("role") == "read":
        return [f"the token {name} may only read: use one with write permission"]
    if token.get("role") == "fineGrained":
        scopes = token.get("fineGrained", {}).get("scoped", [])
        scopes = [s for s in scopes if s.get("entity", {}).get("name") in (owner, repo)]
        if not any("repo.write" in s.get("permissions", []) for s in scopes):
            return [f"the token {name} has no permission to write to repositories of {owner}"]
    return []


def _may_create(user: dict[str, Any], repo: str) -> list[str]:
    name, owner = user.get("name"), repo.partition("/")[0]
    roles = {o.get("name"): o.get("roleInOrg") for o in user.get("orgs", [])}
    if owner != name and owner not in roles:
        return [f"{name} is no member of {owner}, so {repo} cannot be created (or is private to others)"]
    role = roles.get(owner)
    if role is not None and role not in WRITERS:
        return [f"{name} has the role {role!r} in {owner}, which may not create {repo}"]
    return _token_writes(user, repo)


def push(
    folder: Path, repo: str, *, private: bool, tag: str, message: str, say: Callable[[str], None] = lambda _: None
) -> Pushed:
    """Send the files that the repository lacks in one commit, and tag it.

    Raises UserError for what the user must change, HubError when the network or the Hub failed three times.
    """
    from huggingface_hub.errors import HfHubHTTPError

    heads: list[str] = []
    for wait in (*WAITS, None):
        try:
            return _push(folder, repo, private, tag, message, heads)
        except UserError:
            raise
        except (HfHubHTTPError, _transport(), OSError, RuntimeError, ValueError) as error:
            _give_up_if_final(error, repo)
            if wait is None:
                raise HubError(f"the push to {repo} failed: {_first_line(error)}") from error
            say(f"{_first_line(error)}; trying again in {wait:.0f} s")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _push(folder: Path, repo: str, private: bool, tag: str, message: str, heads: list[str]) -> Pushed:
    """One try. `heads`: the commit before each, since a failed try may have made one."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    before = api.model_info(repo)
    if private and not before.private:
        raise UserError(
            f"{repo} is public, and the recipe says private. Make it private in its settings, choose another "
            "repository, or say so: publish.private: false (--public)."
        )
    names = [p.as_posix() for p in bundle.files(folder)]
    remote = _remote_hashes(api, repo)
    changed = [n for n in names if remote.get(n) not in _local_hashes(folder / n)]
    head = str(before.sha)
    heads.append(head)
    tags = {t.name: t.target_commit for t in api.list_repo_refs(repo).tags}
    if tag in tags and (changed or tags[tag] != head):
        raise UserError(f"{repo} has a tag {tag!r} already, on other content; choose another with --tag.")
    if changed:
        operations = [CommitOperationAdd(n, folder / n) for n in changed]
        # With a parent, the second of two pushes at the same time fails instead of mixing with the first.
        head = api.create_commit(repo, operations, commit_message=message, parent_commit=head).oid
        remote = _remote_hashes(api, repo)
        if wrong := [n for n in names if remote.get(n) not in _local_hashes(folder / n)]:
            raise RuntimeError(f"{wrong[0]} on the Hub is not what was sent")
    if tag not in tags:
        api.create_tag(repo, tag=tag, revision=head, exist_ok=True)
    strangers = tuple(n for n in remote if n not in names and n != ".gitattributes")
    return Pushed(repo, f"{api.endpoint}/{repo}", head, tag, head != heads[0], strangers)


def _remote_hashes(api: Any, repo: str) -> dict[str, str]:
    """Path -> hash on the Hub: SHA-256 of a large file, git's hash of any other."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo, recursive=True)
    return {e.path: e.lfs.sha256 if e.lfs else e.blob_id for e in entries if isinstance(e, RepoFile)}


def _local_hashes(path: Path) -> tuple[str, str]:
    """Git's hash of a local file (SHA-1 of length and content), and SHA-256."""
    content = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    git.update(content)
    return git.hexdigest(), hashlib.sha256(content).hexdigest()


def _give_up_if_final(error: BaseException, repo: str) -> None:
    """Raise UserError for what another try cannot change."""
    cause: BaseException | None = error
    while cause is not None:
        status = _status(cause)
        if status in (401, 403):
            raise UserError(
                f"the Hub refuses the push to {repo} ({status}). Check the token (`hf auth whoami`) and its write "
                "permission; then repeat the command: the bundle is kept and only the push is done again."
            ) from error
        if status == 404:
            raise UserError(f"{repo} is not on the Hub, or not for us to see.") from error
        if status == 412:
            raise UserError(f"{repo} was changed while we pushed; look at it, then repeat the command.") from error
        if isinstance(cause, ValueError) and "README.md" in str(cause):
            raise UserError(f"the Hub does not accept the model card: {' '.join(str(cause).split())}") from error
        if type(cause).__name__ == "OfflineModeIsEnabled":
            raise UserError("HF_HUB_OFFLINE is set; unset it to push.") from error
        cause = cause.__cause__


def _transport() -> type[Exception]:
    """The errors of huggingface_hub's HTTP library, which has changed twice."""
    from huggingface_hub import errors

    http_error: type[Exception] = getattr(errors, "HTTPError", OSError)
    return http_error


def _status(error: BaseException) -> int | None:
    """HTTP status; hf_xet, which sends large files, has it in its message only."""
    if (response := getattr(error, "response", None)) is not None:
        return getattr(response, "status_code", None)
    match = re.search(r"HTTP status client error \((\d{3})\b", str(error))
    return int(match[1]) if match else None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def ask_hub(file: RecipeFile) -> str | None:
    """Ask the Hub before a run whether its recipe's repository may be pushed to.

    Returns why the Hub could not be asked. Raises UserError when the push is not allowed.
    """
    publish = file.recipe.publish
    if publish is None or publish.repo is None:
        return None
    try:
        problems = rights(publish.repo)
    except HubError as error:
        return f"whether {publish.repo} may be pushed to could not be asked: {error}"
    if problems:
        raise UserError(
            f"{'; '.join(problems)}. To train all the same: publish.repo=null (and later adapters publish --repo …)",
            at=("publish", "repo"),
        )
    return None
