"""Pushing to a Hub that speaks HTTP and fails in every way it can: nothing is lost, nothing is done twice."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import CUT, LOST, HubServer

from adapters.errors import UserError
from adapters.publish import base_license, bundle, hub
from adapters.publish.gate import GateError

pytest.importorskip("huggingface_hub")
REPO = "me/funding-tiny"
CARD = "---\nlibrary_name: peft\nlicense: mit\n---\n\n# Card\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    with HubServer() as running:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", running.token)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(time, "sleep", lambda _: None)
        close_session()
        yield running
        close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    (made / "plots").mkdir(parents=True)
    (made / "README.md").write_text(CARD)
    (made / "adapter_config.json").write_text("{}")
    (made / "adapter_model.safetensors").write_bytes(b"\1\2\3" * 1000)
    (made / "plots" / "loss.png").write_bytes(b"\x89PNG" + b"x" * 50)
    bundle.seal(made)
    return made


def push(folder: Path, *, private: bool = True, tag: str | None = "v1", **more: Any) -> hub.Pushed:
    bundle.seal(folder)
    return hub.push(folder, REPO, private=private, tag=tag, message="run: 2-grpo", **more)


def test_one_commit_private_and_tagged(server: HubServer, folder: Path) -> None:
    pushed = push(folder)
    repo = server.repos[REPO]
    assert pushed.new
    assert repo.private
    assert len(repo.commits) == 2
    assert repo.messages[-1] == "run: 2-grpo"
    assert repo.tags == {"v1": pushed.commit}
    assert repo.files["adapter_model.safetensors"] == (folder / "adapter_model.safetensors").read_bytes()
    assert set(repo.files) == {".gitattributes", *(p.as_posix() for p in bundle.files(folder))}
    assert not pushed.strangers


def test_the_same_content_again_makes_no_commit(server: HubServer, folder: Path) -> None:
    first = push(folder)
    server.requests.clear()
    again = push(folder)
    assert (again.commit, again.new) == (first.commit, False)
    assert len(server.repos[REPO].commits) == 2
    assert not server.sent(r"PUT /lfs|/commit/|/tag/"), "nothing is sent twice"
    assert not server.sent(r"GET .*/resolve/"), "what carries its tag was proven before"


def test_only_what_changed_is_sent(server: HubServer, folder: Path) -> None:
    push(folder)
    (folder / "README.md").write_text(CARD + "more\n")
    server.requests.clear()
    assert push(folder, tag="v2").new
    assert len(server.repos[REPO].commits) == 3
    assert not server.sent(r"PUT /lfs")
    assert set(server.repos[REPO].tags) == {"v1", "v2"}


@pytest.mark.parametrize(
    ("method", "where", "how"),
    [
        ("POST", r"/repos/create", 500),
        ("POST", r"/repos/create", LOST),
        ("GET", r"/tree/", 503),
        ("POST", r"/preupload/", 500),
        ("POST", r"/objects/batch", CUT),
        ("PUT", r"/lfs/", 500),
        ("PUT", r"/lfs/", CUT),
        ("POST", r"/commit/", 500),
        ("POST", r"/commit/", CUT),
        ("POST", r"/commit/", LOST),
        ("POST", r"/tag/", 502),
        ("POST", r"/tag/", LOST),
    ],
)
def test_one_fault_is_overcome(server: HubServer, folder: Path, method: str, where: str, how: object) -> None:
    server.fail(method, where, how)
    pushed = push(folder)
    repo = server.repos[REPO]
    assert len(repo.commits) == 2, "one commit, whatever was lost on the way"
    assert pushed.new
    assert repo.tags == {"v1": pushed.commit}
    assert repo.files["README.md"] == CARD.encode()


@pytest.mark.parametrize(("where", "how"), [(r"/repos/create", CUT), (r"/commit/", 500), (r"/tag/", CUT)])
def test_after_a_lasting_fault_a_second_call_completes(
    server: HubServer, folder: Path, where: str, how: object
) -> None:
    server.fail("POST", where, how, times=3)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(hub.HubError, match="failed"):
        push(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    pushed = push(folder)
    assert len(server.repos[REPO].commits) == 2
    assert server.repos[REPO].tags == {"v1": pushed.commit}


def test_a_refusal_is_not_tried_again(server: HubServer, folder: Path) -> None:
    server.fail("POST", r"/commit/", 403)
    with pytest.raises(UserError, match=r"refuses the push.*403.*write permission"):
        push(folder)
    assert server.sent(r"/commit/") == 1
    assert push(folder).new, "the same command completes once the rights are there"
    assert server.sent(r"PUT /lfs") == 2, "what was uploaded before the refusal is not uploaded again"


def test_a_card_that_the_hub_refuses_is_named_before_any_upload(server: HubServer, folder: Path) -> None:
    (folder / "README.md").write_text(CARD.replace("mit", "nonsense"))
    with pytest.raises(UserError, match=r"does not accept the model card.*license"):
        push(folder)
    assert not server.sent(r"PUT /lfs|/commit/")


def test_a_public_repository_is_not_pushed_to_by_mistake(server: HubServer, folder: Path) -> None:
    server.add(REPO, folder / "plots")
    with pytest.raises(UserError, match="is public, and the recipe says private"):
        push(folder)
    assert len(server.repos[REPO].commits) == 1
    pushed = push(folder, private=False)
    assert pushed.strangers == ("loss.png",), "files of others stay, and are named"


def test_a_taken_tag_is_found_before_the_commit(server: HubServer, folder: Path) -> None:
    push(folder)
    (folder / "README.md").write_text(CARD + "more\n")
    with pytest.raises(UserError, match="tag 'v1' already"):
        push(folder)
    assert len(server.repos[REPO].commits) == 2


def test_somebody_elses_push_in_between_is_an_error(server: HubServer, folder: Path) -> None:
    server.fail("POST", r"/commit/", 412)
    with pytest.raises(UserError, match="was changed while we pushed"):
        push(folder)


def test_rights(server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.rights(REPO) == [], "our own name: it will be created"
    assert "no member of others" in hub.rights("others/model")[0]
    server.orgs = [{"name": "others", "roleInOrg": "read"}]
    assert "role 'read'" in hub.rights("others/model")[0]
    server.orgs = [{"name": "others", "roleInOrg": "write"}]
    assert hub.rights("others/model") == []
    push(folder)
    assert hub.rights(REPO) == []
    assert not server.sent("POST /api/repos/create .*others"), "asking changes nothing"
    server.readonly.add(REPO)
    assert "may not write" in hub.rights(REPO)[0]
    server.readonly.clear()
    server.role = "read"
    assert "may only read" in hub.rights(REPO)[0]
    server.role = "fineGrained"
    assert "no permission to write" in hub.rights(REPO)[0]
    server.scopes = [{"entity": {"type": "user", "name": "me"}, "permissions": ["repo.write"]}]
    assert hub.rights(REPO) == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrong" + "w" * 30)
    assert "does not accept the token" in hub.rights(REPO)[0]
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "no Hub token" in hub.rights(REPO)[0]


def test_an_unreachable_hub(server: HubServer, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(hub.HubError, match="cannot be reached"):
        hub.rights(REPO)
    with pytest.raises(hub.HubError):
        push(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(hub.HubError, match="HF_HUB_OFFLINE"):
        hub.rights(REPO)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        push(folder)


def test_a_refusal_of_the_xet_storage_is_not_tried_again(
    server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hf_xet sends large files with its own HTTP client, whose errors carry no response."""
    pytest.importorskip("hf_xet")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    server.fail("GET", r"/xet-write-token/", 403)
    with pytest.raises(UserError, match=r"refuses the push.*403"):
        push(folder)
    assert server.sent(r"/xet-write-token/") == 1
    assert len(server.repos[REPO].commits) == 1


@pytest.mark.parametrize("fault", [ConnectionError("Network error"), RuntimeError("cannot write"), PermissionError()])
def test_a_fault_of_the_xet_storage_is_overcome(
    server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """The storage itself is stood in for; what comes before and after is huggingface_hub's own."""
    from huggingface_hub import _commit_api, constants

    faults, sent = [fault], []

    def upload(*, additions: list, **_: object) -> None:
        if faults:
            raise faults.pop()
        for one in additions:
            content = Path(one.path_or_fileobj).read_bytes()
            one.upload_info.sha256 = hashlib.sha256(content).digest()  # as the real one fills it in
            server.lfs[hashlib.sha256(content).hexdigest()] = content
            sent.append(one.path_in_repo)

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(_commit_api, "is_xet_available", lambda: True)
    monkeypatch.setattr(_commit_api, "_upload_xet_files", upload)
    server.fail("POST", r"/commit/", LOST)
    first = push(folder)
    assert first.new
    assert len(server.repos[REPO].commits) == 2
    sent.clear()
    assert not push(folder).new
    assert not sent, "the same content again is recognised by its hash, whichever way it came"


def test_the_token_is_never_said(server: HubServer, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    server.fail("POST", r"/commit/", 500, times=3)
    with pytest.raises(hub.HubError) as error:
        hub.push(folder, REPO, private=True, tag="v1", message="m", say=said.append)
    out = capfd.readouterr()
    assert server.token not in "".join([*said, str(error.value), repr(error.value.__cause__), out.out, out.err])
    assert len(said) == 2, "each further try is announced"


STALE = {"chat_template.jinja": "{{ messages }}", "plots/kl.png": "x", "code/judge.py": "pass", "vocab.json": "{}"}


def with_stale_files(folder: Path) -> None:
    for name, text in STALE.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def test_what_an_earlier_bundle_brought_is_deleted_in_the_same_commit(server: HubServer, folder: Path) -> None:
    with_stale_files(folder)
    push(folder)
    repo = server.repos[REPO]
    repo.commits[-1] |= {"NOTES.md": b"by hand", "notes/plots/kl.png": b"x"}
    for name in STALE:
        (folder / name).unlink()
    pushed = push(folder, tag="v2")
    assert len(repo.commits) == 3, "one commit"
    assert set(pushed.deleted) == set(STALE)
    assert pushed.strangers == ("NOTES.md", "notes/plots/kl.png")
    ours = {p.as_posix() for p in bundle.files(folder)}
    assert set(repo.at("v2")[1]) == {".gitattributes", "NOTES.md", "notes/plots/kl.png", *ours}
    assert "chat_template.jinja" in repo.at("v1")[1], "the earlier tag keeps what was proven with it"
    assert not push(folder, tag="v2").deleted


def test_a_bundle_from_before_there_was_a_list_is_known_by_its_files(server: HubServer, folder: Path) -> None:
    for name in ("recipe.yaml", "results.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    push(folder)
    repo = server.repos[REPO]
    del repo.commits[-1]["bundle.json"]
    repo.commits[-1]["handler.txt"] = b"x"
    (folder / "chat_template.jinja").unlink()
    pushed = push(folder, tag="v2")
    assert (pushed.deleted, pushed.strangers) == (("chat_template.jinja",), ("handler.txt",))


@pytest.mark.parametrize("listed", ['{"files": {"NOTES.md": "", "../x": "", "a/chat_template.jinja": ""}}', "[1]", '{"files": 3}'])  # fmt: skip # noqa: E501
def test_a_list_of_somebody_else_deletes_no_file_that_no_bundle_holds(
    server: HubServer, folder: Path, tmp_path: Path, listed: str
) -> None:
    (tmp_path / "theirs" / "a").mkdir(parents=True)
    for name, text in (("bundle.json", listed), ("NOTES.md", "x"), ("a/chat_template.jinja", "x")):
        (tmp_path / "theirs" / name).write_text(text)
    server.add(REPO, tmp_path / "theirs")
    pushed = push(folder, private=False)
    assert not pushed.deleted
    assert set(pushed.strangers) == {"NOTES.md", "a/chat_template.jinja"}


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "adapter_model.bin", "config.json", "modeling_x.py", "additional_chat_templates/tool.jinja", "custom_generate/generate.py", "model.safetensors", "pytorch_model-00001-of-00002.bin", "new_embeddings.safetensors"])  # fmt: skip # noqa: E501
def test_a_file_of_others_that_libraries_read_is_refused_or_deleted(
    server: HubServer, folder: Path, tmp_path: Path, name: str
) -> None:
    theirs = tmp_path / "theirs" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("x")
    server.add(REPO, tmp_path / "theirs")
    with pytest.raises(UserError, match=rf"holds {name}, which no bundle of ours brought.*--delete-foreign"):
        push(folder, private=False)
    assert len(server.repos[REPO].commits) == 1
    assert not server.sent("PUT /lfs")
    pushed = push(folder, private=False, delete_foreign=True)
    assert pushed.deleted == (name,)
    assert name not in server.repos[REPO].files


def test_the_bundle_is_proven_once_more_from_the_hubs_files_before_the_tag(server: HubServer, folder: Path) -> None:
    served: list[dict[str, bytes]] = []

    def prove(path: Path) -> None:
        assert not server.repos[REPO].tags
        served.append({p.as_posix(): (path / p).read_bytes() for p in bundle.files(path)})

    push(folder, prove=prove)
    assert served == [{p.as_posix(): (folder / p).read_bytes() for p in bundle.files(folder)}]
    push(folder, prove=prove)
    assert len(served) == 1


def test_a_bundle_that_fails_on_the_hub_gets_no_tag(server: HubServer, folder: Path) -> None:
    def prove(path: Path) -> None:
        raise GateError("another answer")

    with pytest.raises(GateError):
        push(folder, prove=prove)
    assert not server.repos[REPO].tags
    assert len(server.repos[REPO].commits) == 2
    assert not push(folder).new, "once it is loaded, the same command tags the commit"
    assert server.repos[REPO].tags


def test_other_bytes_than_were_sent_are_found(server: HubServer, folder: Path) -> None:
    server.served["adapter_config.json"] = b'{"r": 8}'
    with pytest.raises(hub.HubError, match=r"the Hub gives another adapter_config\.json than was sent"):
        push(folder)
    assert not server.repos[REPO].tags


def request(folder: Path, **more: Any) -> hub.Pushed:
    return push(folder, private=False, tag=None, pull_request=True, **more)


def test_a_pull_request_instead_of_a_commit(server: HubServer, folder: Path, tmp_path: Path) -> None:
    assert "not on the Hub" in hub.rights(REPO, pull_request=True)[0]
    with pytest.raises(UserError, match="not on the Hub"):
        request(folder)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "notes.txt").write_text("x")
    server.add(REPO, tmp_path / "theirs")
    server.readonly.add(REPO)
    assert "--pr" in hub.rights(REPO)[0]
    assert hub.rights(REPO, pull_request=True) == []
    repo, served = server.repos[REPO], []
    first = request(folder, prove=served.append)
    assert first.pull_request == f"{server.url}/{REPO}/discussions/1"
    assert (first.tag, first.new, len(served)) == (None, True, 1)
    assert (len(repo.commits), repo.tags) == (1, {}), "the main branch is not touched"
    assert set(repo.pulls[0].commits[-1]) == {"notes.txt", *(p.as_posix() for p in bundle.files(folder))}
    again = request(folder)
    assert (again.pull_request, again.commit, again.new) == (first.pull_request, first.commit, False)
    (folder / "README.md").write_text(CARD + "more\n")
    more = request(folder)
    assert (more.pull_request, more.new) == (first.pull_request, True), "the open one gets the next commit"
    assert len(repo.pulls) == 1
    repo.merge(1)
    merged = request(folder)
    assert (merged.pull_request, merged.new) == (None, False)
    assert len(repo.pulls) == 1


@pytest.mark.parametrize("how", [500, CUT, LOST])
def test_one_fault_makes_no_second_pull_request(server: HubServer, folder: Path, tmp_path: Path, how: object) -> None:
    (tmp_path / "theirs").mkdir()
    server.add(REPO, tmp_path / "theirs")
    server.fail("POST", r"/commit/", how)
    assert request(folder).new
    assert len(server.repos[REPO].pulls) == 1


def test_a_pull_request_deletes_what_an_earlier_bundle_brought(server: HubServer, folder: Path) -> None:
    with_stale_files(folder)
    push(folder, private=False)
    for name in STALE:
        (folder / name).unlink()
    assert set(request(folder).deleted) == set(STALE)
    assert not request(folder).new
    assert len(server.repos[REPO].pulls) == 1
    assert "chat_template.jinja" in server.repos[REPO].files, "until it is merged"


def test_the_bases_licence_is_asked_of_the_hub(server: HubServer, folder: Path) -> None:
    server.add("owner/base", folder)
    model = SimpleNamespace(base="owner/base")
    finished: Any = SimpleNamespace(
        settings=SimpleNamespace(base_license=None),
        base_id="owner/base",
        base_revision=None,
        recipe=SimpleNamespace(model=model),
    )
    assert base_license.of_run(finished) is None
    server.licences["owner/base"] = "llama3.1"
    assert base_license.of_run(finished) == "llama3.1"
    finished.base_id = "owner/away"
    assert base_license.of_run(finished) is None
