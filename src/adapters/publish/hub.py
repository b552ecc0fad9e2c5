"""Push to the Hub: rights, changed files, one commit or pull request, one tag. All idempotent."""

from __future__ import annotations

import glob
import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, NamedTuple

from adapters.errors import UserError, first_line
from adapters.files import read_json, sha256
from adapters.publish import bundle
from adapters.recipe.load import RecipeFile

WAITS: Final = (2.0, 8.0)
"""Seconds before the second and the third try of a push."""
WRITERS: Final = ("admin", "write", "contributor")
READ: Final = (
    *bundle.ADAPTER, *bundle.TOKENIZER, "adapter_model*", "additional_chat_templates/*", "new_embeddings*",
    "config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json", "*.py",
    "custom_generate/*", "model*.safetensors*", "pytorch_model*.bin*", "*.model", "*.spm", "*.tiktoken", "tekken.json",
)  # fmt: skip
"""What transformers, PEFT and vLLM look for in the repository of an adapter."""
Prove = Callable[[Path], None]
"""Loads a bundle's files as the Hub gives them; raises GateError when they are not what was proven."""


class HubError(Exception):
    """The Hub or the network failed; the same command continues the push. Exit code 1."""


@dataclass(frozen=True)
class Pushed:
    """Where a bundle is now."""

    repo: str
    url: str
    commit: str
    tag: str | None
    """None for a pull request."""
    new: bool
    """Whether this push made a commit; the same content again makes none."""
    strangers: tuple[str, ...]
    """Files of the repository that are not the bundle's; they are left alone."""
    deleted: tuple[str, ...] = ()
    """Files that this push deleted: those of an earlier bundle, and others with `delete_foreign`."""
    pull_request: str | None = None
    """Address of the pull request that holds the commit."""


def rights(repo: str, *, pull_request: bool = False, kind: str = "model") -> list[str]:
    """Why the Hub would refuse a push or a pull request. Raises HubError when it cannot be asked."""
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
        api.auth_check(repo, repo_type=kind, write=not pull_request)
    except RepositoryNotFoundError:
        if pull_request:
            return [f"{repo} is not on the Hub, or not for us to see; a pull request needs it: push without --pr first"]
        return _may_create(user, repo)
    except HfHubHTTPError as error:
        if _status(error) not in (401, 403):
            question = "whether we may write" if user else "who we are"
            raise HubError(f"the Hub answers {_status(error)} to the question {question}; try again later") from error
        if user:
            return [
                f"{user.get('name')} may not write to {repo}: ask its owner, use a token with write permission, or "
                "open a pull request (--pr)"
            ]
        return ["the Hub does not accept the token: run `hf auth login`, or set a valid HF_TOKEN"]
    except (transport(), OSError) as error:
        raise HubError(f"the Hub at {api.endpoint} cannot be reached ({type(error).__name__})") from error
    return _token_writes(user, repo, pull_request=pull_request)


def _token_writes(user: dict[str, Any], repo: str, *, pull_request: bool = False) -> list[str]:
    token, owner = user.get("auth", {}).get("accessToken", {}), repo.partition("/")[0]
    name = repr(token.get("displayName", ""))
    if token.get("role") == "read":
        return [f"the token {name} may only read: use one with write permission"]
    if token.get("role") == "fineGrained" and not pull_request:
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
    folder: Path,
    repo: str,
    *,
    private: bool,
    tag: str | None,
    message: str,
    pull_request: bool = False,
    delete_foreign: bool = False,
    prove: Prove = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Pushed:
    """Send the files that the repository lacks, and delete those of an earlier bundle, in one commit; tag it.

    With `pull_request` the commit is that of a pull request. `delete_foreign` deletes files of others that libraries
    would read. `prove` is called before the tag, with the files as the Hub gives them. Raises UserError for what the
    user must change, HubError when the network or the Hub failed three times, and what `prove` raises.
    """
    from huggingface_hub.errors import HfHubHTTPError

    job = _Push(folder, repo, private, tag, message, pull_request, delete_foreign, prove)
    for wait in (*WAITS, None):
        try:
            return job.attempt()
        except UserError:
            raise
        except (HfHubHTTPError, transport(), OSError, RuntimeError, ValueError) as error:
            give_up_if_final(error, repo)
            if wait is None:
                raise HubError(f"the push to {repo} failed: {first_line(error)}") from error
            say(f"{first_line(error)}; trying again in {wait:.0f} s")
            time.sleep(wait)
    raise AssertionError("unreachable")


class _Target(NamedTuple):
    """Where a commit goes: the main branch, or the branch of an open pull request."""

    revision: str
    head: str
    files: dict[str, str]
    """Path -> hash at `head`."""
    request: str | None = None
    """Address of the pull request."""


@dataclass
class _Push:
    """A push. Each attempt looks at what is there, so that none repeats what an earlier one did."""

    folder: Path
    repo: str
    private: bool
    tag: str | None
    message: str
    pull_request: bool
    delete_foreign: bool
    prove: Prove
    first_head: str | None = None
    """The head before the first attempt: a failed one may have made the commit."""

    def attempt(self) -> Pushed:
        from huggingface_hub import HfApi

        api = HfApi()
        if not self.pull_request:
            api.create_repo(self.repo, private=self.private, exist_ok=True)
        names = [p.as_posix() for p in bundle.files(self.folder)]
        target = self._target(api)
        self.first_head = self.first_head or target.head
        changed = self._changed(target.files, names)
        old, foreign = self._not_in_bundle(api, target, names)
        tags = {t.name: t.target_commit for t in api.list_repo_refs(self.repo).tags} if self.tag else {}
        if self.tag in tags and (changed or old or tags[self.tag] != target.head):
            raise UserError(f"{self.repo} has a tag {self.tag!r} already, on other content; choose another with --tag.")
        if changed or old:
            target = self._commit(api, target, changed, old)
            if wrong := [*self._changed(target.files, names), *(n for n in old if n in target.files)]:
                raise RuntimeError(f"{wrong[0]} on the Hub is not what was sent")
        if self.tag not in tags and (self.tag or target.request):
            self._prove(api, target, names)
        if self.tag and self.tag not in tags:
            api.create_tag(self.repo, tag=self.tag, revision=target.head, exist_ok=True)
        url, new = f"{api.endpoint}/{self.repo}", target.head != self.first_head
        return Pushed(self.repo, url, target.head, self.tag, new, tuple(foreign), tuple(old), target.request)

    def _target(self, api: Any) -> _Target:
        info = api.model_info(self.repo)
        if self.private and not info.private:
            raise UserError(
                f"{self.repo} is public, and the recipe says private. Make it private in its settings, choose another "
                "repository, or say so: publish.private: false (--public)."
            )
        main = _Target("main", str(info.sha), _remote_hashes(api, self.repo, str(info.sha)))
        if not self.pull_request:
            return main
        author = api.whoami()["name"]
        opened = api.get_repo_discussions(
            self.repo, author=author, discussion_type="pull_request", discussion_status="open"
        )
        for request in opened:
            if request.title == self.message:
                ref = f"refs/pr/{request.num}"
                head = str(api.model_info(self.repo, revision=ref).sha)
                return _Target(ref, head, _remote_hashes(api, self.repo, head), request.url)
        return main

    def _changed(self, remote: Mapping[str, str], names: list[str]) -> list[str]:
        return [n for n in names if remote.get(n) not in _local_hashes(self.folder / n)]

    def _not_in_bundle(self, api: Any, target: _Target, names: list[str]) -> tuple[list[str], list[str]]:
        """The files to delete, and those of others, which stay. Raises UserError for those that libraries read."""
        rest = [n for n in target.files if n not in names and n != ".gitattributes"]
        earlier = _of_earlier_bundle(api, self.repo, target) if rest else set()
        old = [n for n in rest if n in earlier]
        foreign = [n for n in rest if n not in earlier]
        if read := [n for n in foreign if read_by_libraries(n)]:
            if not self.delete_foreign:
                raise UserError(
                    f"{self.repo} holds {', '.join(read)}, which no bundle of ours brought and which transformers, "
                    "PEFT or vLLM would read with this adapter. Remove it there, choose another repository, or let "
                    "this push delete it: --delete-foreign."
                )
            old, foreign = old + read, [n for n in foreign if n not in read]
        return old, foreign

    def _commit(self, api: Any, target: _Target, changed: list[str], old: list[str]) -> _Target:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[Any] = [CommitOperationAdd(n, self.folder / n) for n in changed]
        operations += [CommitOperationDelete(n, is_folder=False) for n in old]
        new_request = self.pull_request and target.request is None
        made = api.create_commit(
            self.repo,
            operations,
            commit_message=self.message,
            # With a parent, the second of two pushes at the same time fails instead of mixing with the first.
            parent_commit=target.head,
            revision=None if new_request else target.revision,
            create_pr=new_request,
        )
        revision, url = (made.pr_revision, made.pr_url) if new_request else (target.revision, target.request)
        # Of a pull request, the Hub may not say which commit it has made.
        head = str(api.model_info(self.repo, revision=revision).sha) if new_request else str(made.oid)
        return _Target(revision, head, _remote_hashes(api, self.repo, head), url)

    def _prove(self, api: Any, target: _Target, names: list[str]) -> None:
        """Load the bundle's files from the Hub, with any other there that libraries read."""
        wanted = [glob.escape(n) for n in target.files if n in names or read_by_libraries(n)]
        with tempfile.TemporaryDirectory() as cache:
            path = api.snapshot_download(self.repo, revision=target.head, cache_dir=cache, allow_patterns=wanted)
            served = Path(path).resolve()
            if wrong := [n for n in names if not _same(self.folder / n, served / n)]:
                raise RuntimeError(f"the Hub gives another {wrong[0]} than was sent")
            self.prove(served)


def read_by_libraries(name: str) -> bool:
    """Whether transformers, PEFT or vLLM read a file of this name in an adapter's repository."""
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in READ)


def _of_earlier_bundle(api: Any, repo: str, target: _Target) -> set[str]:
    """The files that an earlier push of ours brought."""
    listed: Iterable[str] = ()
    if bundle.LIST in target.files:
        with tempfile.TemporaryDirectory() as cache:
            path = api.hf_hub_download(repo, bundle.LIST, revision=target.head, cache_dir=cache)
            files = read_json(Path(path)).get("files")
            listed = [*(files if isinstance(files, dict) else ()), bundle.LIST]
    elif target.files.keys() >= {"recipe.yaml", "results.json", *bundle.ADAPTER}:
        listed = target.files  # a bundle from before there was a list
    # Somebody else may have written the list.
    return {name for name in listed if bundle.belongs(str(name))}


def _same(ours: Path, theirs: Path) -> bool:
    return theirs.is_file() and sha256(ours) == sha256(theirs)


def _remote_hashes(api: Any, repo: str, revision: str) -> dict[str, str]:
    """Path -> hash on the Hub: SHA-256 of a large file, git's hash of any other."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo, recursive=True, revision=revision)
    return {e.path: e.lfs.sha256 if e.lfs else e.blob_id for e in entries if isinstance(e, RepoFile)}


def _local_hashes(path: Path) -> tuple[str, str]:
    """Git's hash of a local file (SHA-1 of length and content), and SHA-256."""
    content = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    git.update(content)
    return git.hexdigest(), hashlib.sha256(content).hexdigest()


def give_up_if_final(error: BaseException, repo: str) -> None:
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


def transport() -> type[Exception]:
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
