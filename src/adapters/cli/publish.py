"""`adapters publish` and `adapters merge`."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Exit, Option, Typer

from adapters.cli.errors import complain, errors
from adapters.cli.options import AsJson, RunPath, Trust, plugin_consent
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from adapters.publish.finished_run import Finished
    from adapters.publish.gguf import Converters
    from adapters.publish.release import Release

app = Typer()
LlamaCpp = Annotated[
    Path | None,
    Option("--llama-cpp", metavar="FOLDER", envvar="LLAMA_CPP", help="llama.cpp; default: that of `make llama`."),
]


@app.command()
def publish(
    run_folder: RunPath,
    overrides: Annotated[list[str] | None, Argument(metavar="publish.KEY=VALUE", help="publish.license=mit …")] = None,
    repo: Annotated[str | None, Option(metavar="OWNER/NAME", help="The repository on the Hub.")] = None,
    public: Annotated[bool, Option("--public", help="Create the repository public; default: private.")] = False,
    tag: Annotated[str | None, Option(help="Tag of the published commit.")] = None,
    pull_request: Annotated[
        bool, Option("--pr", help="Open a pull request on the Hub instead of a commit; it has no tag.")
    ] = False,
    delete_foreign: Annotated[
        bool, Option("--delete-foreign", help="Delete files of others that would be read with the adapter.")
    ] = False,
    compare: Annotated[Path | None, Option(metavar="RUN", help="An earlier run, for the card's comparison.")] = None,
    vllm: Annotated[
        Path | None, Option(metavar="PYTHON", help="Check with the vLLM of this interpreter; default: of this one.")
    ] = None,
    llama_cpp: LlamaCpp = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Make and verify the bundle, show it, push nothing.")] = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Bundle a finished run's adapter, verify the bundle, and push it to the Hub.

    Called again, it only pushes.
    """
    from adapters.console import console, quiet
    from adapters.pipeline.run import lock
    from adapters.publish import finished_run, release

    flags = [f"publish.repo={json.dumps(repo)}"] if repo else []
    flags += ["publish.private=false"] if public else []
    flags += [f"publish.tag={json.dumps(tag)}"] if tag else []
    with errors() as state:
        if vllm and not shutil.which(vllm):
            raise UserError(f"--vllm {vllm}: no such interpreter; name the python of an environment with vLLM.")
        llama = _llama(llama_cpp)
        consent = plugin_consent(trust)
        run = finished_run.read(run_folder, [*(overrides or []), *flags], consent)
        state.file, state.log, state.resumes = run.file, run.folder / "run.log", False
        earlier = finished_run.read(compare, consent=consent) if compare else None
        screen = console(stderr=as_json)
        if pull_request and tag:
            raise UserError("--tag names a commit of the main branch, and --pr makes none there; give one of them.")
        if not dry_run and run.settings.repo:
            _check_rights(run.settings.repo, pull_request)  # before the slow part
        with lock(run.folder.absolute()), quiet(state.log), screen.status("…") as status:
            vllm = vllm or _own_vllm()
            bundle = release.prepare(run, earlier, status.update, vllm, llama, pull_request=pull_request)
        _show(bundle, screen)
        pushed = None
        if failed := next((check for check in bundle.checks if not check.passed), None):
            complain(f"The gate refuses this adapter: {failed.name}: {failed.detail}\nNothing was published.")
        elif dry_run:
            screen.print(f"Nothing was pushed. The bundle: {bundle.folder}")
        else:
            pushed = _push(bundle, run, screen, pull_request=pull_request, delete_foreign=delete_foreign)
        if as_json:
            result = {"bundle": str(bundle.folder), "passed": bundle.passed, "files": bundle.files}
            checks = [check._asdict() for check in bundle.checks]
            print(json.dumps({**result, "checks": checks, "notes": bundle.notes, "pushed": pushed}))
        if failed:
            raise Exit(3)


@app.command()
def merge(
    run_folder: RunPath,
    out: Annotated[Path, Option("-o", "--out", help="The model's new folder; it must not exist.")],
    dtype: Annotated[str, Option(help="bfloat16, float16 or float32; auto: as the base is stored.")] = "auto",
    gguf: Annotated[
        Literal["bf16", "q8_0"] | None, Option(help="Write the merged model for llama.cpp, with Ollama's Modelfile.")
    ] = None,
    lora_gguf: Annotated[
        bool, Option("--lora-gguf", help="Merge nothing: write the adapter for llama-server's --lora.")
    ] = False,
    llama_cpp: LlamaCpp = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Merge base and adapter into one model, for servers without LoRA.

    The merged model is loaded again and its answers are compared with the adapter's.
    """
    from adapters.console import console, quiet
    from adapters.publish import finished_run

    with errors() as state:
        if dtype not in ("auto", "bfloat16", "float16", "float32"):
            raise UserError(f"--dtype {dtype}: one of auto, bfloat16, float16 and float32.")
        if out.exists():
            raise UserError(f"{out} exists already; nothing was written.")
        if llama_cpp and not (gguf or lora_gguf):
            raise UserError("--llama-cpp is for --gguf and --lora-gguf.")
        if lora_gguf and dtype != "auto":
            raise UserError("--lora-gguf merges nothing, and keeps the adapter's 32 bits: leave --dtype out.")
        if gguf and lora_gguf:
            raise UserError("--gguf writes the merged model, and --lora-gguf the adapter alone; give one of them.")
        run = finished_run.read(run_folder, consent=plugin_consent(trust))
        state.file, state.log, state.resumes = run.file, run.folder / "run.log", False
        screen = console(stderr=as_json)
        with quiet(state.log), screen.status("merging"):
            result = _merged(run, out, dtype, gguf, lora_gguf, llama_cpp)
        if not result["passed"]:
            complain(f"The merged model does not answer like the adapter: {result['detail']}\nNothing was written.")
            raise Exit(3)
        screen.print(f"{out / result.get('file', '')}: {result['detail']}")
        for text in result.get("notes", ()):
            screen.print(f"note: {text}", markup=False)
        if as_json:
            print(json.dumps({"folder": str(out), **result}))


def _merged(
    run: Finished, out: Path, dtype: str, kind: str | None, lora: bool, llama_cpp: Path | None
) -> dict[str, Any]:
    if kind is None and not lora:
        from adapters.publish import merge_adapter

        return merge_adapter.merge(run, out, dtype)
    from adapters.publish import gguf

    tools = gguf.converters(llama_cpp)
    return gguf.write_lora(run, out, tools) if kind is None else gguf.write_merged(run, out, dtype, kind, tools)


def _llama(folder: Path | None) -> Converters | None:
    """A folder of llama.cpp with converters and a server; None without one. Raises UserError for a wrong folder."""
    from adapters.console import note
    from adapters.publish import gguf, llama_server

    if folder is None and not (gguf.BUILT / ".installed").is_file():
        return None
    tools = gguf.converters(folder)
    try:
        llama_server.server(tools)
    except RuntimeError as error:
        note(f"{error}: the card's commands for llama.cpp are not run")
        return None
    return tools


def _own_vllm() -> Path | None:
    """The interpreter of this process, if vLLM is installed here."""
    return Path(sys.executable) if find_spec("vllm") else None


def _check_rights(repo: str, pull_request: bool) -> None:
    from adapters.publish.hub import HubError, rights

    try:
        problems = rights(repo, pull_request=pull_request)
    except HubError as error:
        complain(f"{error}. Nothing was pushed; --dry-run makes and verifies the bundle without the Hub.")
        raise Exit(1) from None
    if problems:
        raise UserError("\n".join(problems), at=("publish", "repo"))


def _push(
    bundle: Release, run: Finished, screen: Console, *, pull_request: bool, delete_foreign: bool
) -> dict[str, Any]:
    from adapters.publish import release
    from adapters.publish.gate import GateError
    from adapters.publish.hub import HubError

    try:
        screen.print(f"pushing to {bundle.repo}")  # huggingface_hub draws the progress
        pushed = release.push(bundle, run, screen.print, pull_request=pull_request, delete_foreign=delete_foreign)
    except HubError as error:
        complain(f"{error}\nThe verified bundle is kept in {bundle.folder}; the same command only pushes it.")
        raise Exit(1) from None
    except GateError as error:
        complain(f"{error}\nThe commit is on the Hub, and was not tagged.")
        raise Exit(3) from None
    outcome = "pushed" if pushed.new else "already there, unchanged"
    named = f", tag {pushed.tag}" if pushed.tag else ""
    screen.print(f"{pushed.pull_request or pushed.url}: {outcome}{named}, commit {pushed.commit[:12]}")
    if pushed.deleted:
        screen.print(f"Deleted, as this bundle does not hold them: {', '.join(pushed.deleted)}")
    if pushed.strangers:
        screen.print(f"Left alone, as they are not part of this bundle: {', '.join(pushed.strangers)}")
    return asdict(pushed)


def _show(bundle: Release, screen: Console) -> None:
    from adapters.console import new_table

    table = new_table(f"gate{' (verified before)' if bundle.reused else ''}", ["check", "", "result"])
    for check in bundle.checks:
        table.add_row(check.name, "passed" if check.passed else "FAILED", check.detail)
    screen.print(table)
    table = new_table(f"bundle for {bundle.repo}", ["file"], ["bytes"])
    for name, size in {**bundle.files, "together": sum(bundle.files.values())}.items():
        table.add_row(name, f"{size:,}")
    screen.print(table)
    for note in bundle.notes:
        screen.print(f"note: {note}", markup=False)
