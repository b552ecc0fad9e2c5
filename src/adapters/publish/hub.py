"""The Hub: may we, what is there, one commit, a tag. Every step may be repeated; nothing is ever done twice."""

from __future__ import annotations

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
"""Seconds before the second and the third try of a push that the network broke."""
WRITERS: Final = ("admin", "write", "contributor")


class HubError(Exception):
    """The Hub or the way to it failed; nothing is lost, and the same command goes on from there. Exit code 1."""


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
    """What would keep a push to this repository from working, in words; empty when nothing does.

    Asks the Hub who we are and whether we may write; changes nothing there. Raises HubError when it cannot be asked.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set; unset it to push")
    if get_token() is None:
        return ["no Hub token was found: run `hf auth login`, or set HF_TOKEN"]
    api = HfApi()
    try:
        me = api.whoami()
    except HfHubHTTPError as error:
        if _status(error) in (401, 403):
            return ["the Hub does not accept the token: run `hf auth login`, or set a valid HF_TOKEN"]
        raise HubError(f"the Hub answers {_status(error)} to the question who we are; try again later") from error
    except (_transport(), OSError) as error:
        raise _unreachable(api, error) from error
    try:
        api.auth_check(repo, write=True)
    except RepositoryNotFoundError:
        return _may_create(me, repo)
    except HfHubHTTPError as error:
        if _status(error) in (401, 403):
            return [f"{me.get('name')} may not write to {repo}: ask its owner, or use a token with write permission"]
        raise HubError(
            f"the Hub answers {_status(error)} to the question whether we may write; try again later"
        ) from error
    except (_transport(), OSError) as error:
        raise _unreachable(api, error) from error
    return _token_writes(me, repo)


def _unreachable(api: Any, error: BaseException) -> HubError:
    return HubError(f"the Hub at {api.endpoint} cannot be reached ({type(error).__name__})")


def _token_writes(me: dict[str, Any], repo: str) -> list[str]:
    token = me.get("auth", {}).get("accessToken", {})
    owner = repo.partition("/")[0]
    if token.get("role") == "read":
        return [f"the token {token.get('displayName', '')!r} may only read: use one with write permission"]
    if token.get("role") == "fineGrained":
        scopes = token.get("fineGrained", {}).get("scoped", [])
        names = (owner, repo)
        if not any(
            s.get("entity", {}).get("name") in names and "repo.write" in s.get("permissions", []) for s in scopes
        ):
            return [f"the token {token.get('displayName', '')!r} has no permission to write to repositories of {owner}"]
    return []


def _may_create(me: dict[str, Any], repo: str) -> list[str]:
    owner = repo.partition("/")[0]
    organisations = {o.get("name"): o.get("roleInOrg") for o in me.get("orgs", [])}
    if owner != me.get("name") and owner not in organisations:
        return [f"{me.get('name')} is no member of {owner}, so {repo} cannot be created (or is private to others)"]
    role = organisations.get(owner)
    if role is not None and role not in WRITERS:
        return [f"{me.get('name')} has the role {role!r} in {owner}, which may not create {repo}"]
    return _token_writes(me, repo)


def push(
    folder: Path, repo: str, *, private: bool, tag: str, message: str, say: Callable[[str], None] = lambda _: None
) -> Pushed:
    """Bring the repository to the bundle's content in one commit, and tag it.

    Files that are there already are not sent again. Raises UserError for what the person has to change (rights, a
    public repository, a taken tag), HubError when the network or the Hub failed three times.
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
    """One try. `heads` remembers the commits seen at the start of each: an answer that was lost may have made one."""
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
    there = _tree(api, repo)
    changed = [n for n in names if there.get(n) not in _oids(folder / n)]
    head = str(before.sha)
    heads.append(head)
    tags = {t.name: t.target_commit for t in api.list_repo_refs(repo).tags}
    if tag in tags and (changed or tags[tag] != head):
        raise UserError(f"{repo} has a tag {tag!r} already, on other content; choose another with --tag.")
    if changed:
        operations = [CommitOperationAdd(n, folder / n) for n in changed]
        # The parent makes two people's pushes at once an error instead of a mixture.
        head = api.create_commit(repo, operations, commit_message=message, parent_commit=head).oid
        there = _tree(api, repo)
        if wrong := [n for n in names if there.get(n) not in _oids(folder / n)]:
            raise RuntimeError(f"{wrong[0]} on the Hub is not what was sent")
    if tag not in tags:
        api.create_tag(repo, tag=tag, revision=head, exist_ok=True)
    strangers = tuple(n for n in there if n not in names and n != ".gitattributes")
    return Pushed(repo, f"{api.endpoint}/{repo}", head, tag, head != heads[0], strangers)


def _tree(api: Any, repo: str) -> dict[str, str]:
    """Path -> the hash that the Hub goes by: SHA-256 of a large file, git's own of any other."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo, recursive=True)
    return {e.path: e.lfs.sha256 if e.lfs else e.blob_id for e in entries if isinstance(e, RepoFile)}


def _oids(path: Path) -> tuple[str, str]:
    """Both hashes of a local file. Git's is the SHA-1 of a header with the length, and the content."""
    import hashlib

    content = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    git.update(content)
    return git.hexdigest(), hashlib.sha256(content).hexdigest()


def _give_up_if_final(error: BaseException, repo: str) -> None:
    """Raise UserError for what another try cannot mend."""
    for cause in _chain(error):
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


def _transport() -> type[Exception]:
    """What the HTTP library of huggingface_hub raises, whichever it is (it has changed twice)."""
    from huggingface_hub import errors

    found: type[Exception] = getattr(errors, "HTTPError", OSError)
    return found


def _chain(error: BaseException | None) -> list[BaseException]:
    out: list[BaseException] = []
    while error is not None and error not in out:
        out.append(error)
        error = error.__cause__
    return out


def _status(error: BaseException) -> int | None:
    """HTTP status of an answer. hf_xet, which sends large files, only has it in its words."""
    if (response := getattr(error, "response", None)) is not None:
        return getattr(response, "status_code", None)
    found = re.search(r"HTTP status client error \((\d{3})\b", str(error))
    return int(found[1]) if found else None


def _first_line(error: BaseException) -> str:
    last = _chain(error)[0]
    return next((line.strip() for line in str(last).splitlines() if line.strip()), type(last).__name__)


def ask_hub(file: RecipeFile) -> str | None:
    """Whether the push at the end will be allowed, asked before the run; nothing is asked without a repository.

    Returns why the Hub could not be asked, which is no reason not to train. Raises UserError for what it refuses.
    """
    publish = file.recipe.publish
    if publish is None or publish.repo is None:
        return None
    from adapters.publish import hub

    try:
        problems = hub.rights(publish.repo)
    except hub.HubError as error:
        return f"whether {publish.repo} may be pushed to could not be asked: {error}"
    if problems:
        raise UserError(
            f"{'; '.join(problems)}. To train all the same: publish.repo=null (and later adapters publish --repo …)",
            at=("publish", "repo"),
        )
    return None
