"""What trackers get beside the figures of transformers' own callbacks: one run a stage, rollouts, the report.

Each stage is one run there. Its name ends with an id that is drawn at the stage's first step and kept in its folder,
so that a stage that was stopped and started again continues the same run.
"""

from __future__ import annotations

import configparser
import json
import logging
import netrc
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from adapters.backends.jobs import Job
from adapters.errors import UserError
from adapters.files import numbered_jsonl, read_json, sha256, write_json
from adapters.recipe.recipe import Recipe

if TYPE_CHECKING:
    from adapters.recipe.stages import Stage

FILE: Final = "tracking.json"
"""In a stage's folder: the run's id there, and the hash of the report that was sent."""
ROLLOUTS: Final = 1_000
"""Rows of the table of rollouts, at most: the newest."""
COLUMNS: Final = ("step", "id", "reward", "score", "completion")
PROJECT: Final = "huggingface"
"""The project of W&B and trackio, as transformers has it."""


def check_login(name: str, at: Sequence[str | int]) -> None:
    """Raise UserError for W&B without a login, which would ask for one, or fail, once the base is loaded."""
    if name != "wandb" or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return
    settings = configparser.ConfigParser()
    settings.read([Path("~/.config/wandb/settings").expanduser(), Path("wandb/settings")], encoding="utf-8")
    mode = os.environ.get("WANDB_MODE") or settings.get("default", "mode", fallback="online")
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or settings.get("default", "base_url", fallback="")).netloc
    if mode == "online" and not _in_netrc(host or "api.wandb.ai"):
        raise UserError(
            "wandb has no login on this machine: run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline to keep "
            "the run in the folder wandb.",
            at=at,
        )


def _in_netrc(host: str) -> bool:
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if path and netrc.netrc(Path(path).expanduser()).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def run_name(recipe: Recipe, stage: Stage, folder: Path) -> str:
    """The name of a stage's run: recipe, kind, and the id of the stage's folder where it has one."""
    return "-".join(filter(None, (recipe.name, stage.kind, read_json(folder / FILE).get("id"))))


@contextmanager
def one_run(recipe: Recipe, job: Job, folder: Path, *, main: bool) -> Iterator[None]:
    """While a stage trains, its trackers' callbacks open the run of its folder; then they get what remains.

    A tracker that fails at the end is named in the log and fails no stage.
    """
    if not recipe.report_to or not main:
        yield
        return
    if not (folder / FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, {"id": secrets.token_hex(4)})
    name = run_name(recipe, job.stage, folder)
    logs = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or job.folder.parent / "tensorboard") / name
    wanted = {"WANDB_RUN_ID": name, "WANDB_RESUME": "allow", "TENSORBOARD_LOGGING_DIR": str(logs)}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
        _send(recipe, job.stage, folder, name, rollouts=_table(folder))
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def send_report(recipe: Recipe, folder: Path, page: Path) -> None:
    """Add the page of a run to the run of its last stage, in `folder`, where the tracker takes files; once."""
    known = read_json(folder / FILE)
    if recipe.report_to and known.get("id") and page.is_file() and known.get("report") != (content := sha256(page)):
        stage = recipe.stages[-1]
        _send(recipe, stage, folder, run_name(recipe, stage, folder), report=page)
        write_json(folder / FILE, known | {"report": content})


def _send(recipe: Recipe, stage: Stage, folder: Path, name: str, **parts: Any) -> None:
    for tracker in recipe.report_to:
        if send := SENDERS.get(tracker):
            try:
                send(recipe, stage, name, **parts)
            except Exception:
                logging.getLogger(__name__).exception("%s did not take what remained of %s", tracker, name)


def _table(folder: Path) -> list[list[Any]]:
    """The newest graded completions of a stage, one row for each completion and reward."""
    rows = [row for path in sorted(folder.glob("rollouts-*.jsonl")) for _, row in numbered_jsonl(path)]
    rows.sort(key=lambda row: row.get("step", 0))
    return [[row.get(column) for column in COLUMNS] for row in rows[-ROLLOUTS:]]


def _parameters(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude_defaults=True)


def _wandb(recipe: Recipe, stage: Stage, name: str, rollouts: Sequence[Any] = (), report: Path | None = None) -> None:
    import wandb  # type: ignore[import-not-found, unused-ignore]

    # transformers leaves its run open, and the next stage would go on in it.
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    run = wandb.run or wandb.init(project=project, id=name, name=name, resume="allow")
    run.config.update({"recipe": _parameters(recipe)}, allow_val_change=True)
    if rollouts:
        run.log({"rollouts": wandb.Table(columns=list(COLUMNS), data=[list(map(_cell, row)) for row in rollouts])})
    if report:
        artifact = wandb.Artifact(f"{recipe.name}-report", type="report")
        artifact.add_file(str(report))
        run.log_artifact(artifact)
    run.finish()


def _trackio(recipe: Recipe, stage: Stage, name: str, rollouts: Sequence[Any] = (), report: Path | None = None) -> None:
    import pandas
    import trackio  # type: ignore[import-not-found, unused-ignore]

    options: Mapping[str, Any] = stage.trl
    place = {"space_id": options.get("trackio_space_id"), "private": options.get("hub_private_repo")}
    place["bucket_id"] = options.get("trackio_bucket_id")
    name = options.get("run_name", name)
    trackio.init(project=options.get("project", PROJECT), name=name, resume="allow", embed=False, **place)
    trackio.config.update({"recipe": _parameters(recipe)}, allow_val_change=True)
    if rollouts:
        trackio.log({"rollouts": trackio.Table(dataframe=pandas.DataFrame(rollouts, columns=list(COLUMNS)))})
    if report:
        trackio.log_artifact(report, name=f"{recipe.name}-report", type="report")
    trackio.finish()


def _tensorboard(recipe: Recipe, stage: Stage, name: str, rollouts: Sequence[Any] = (), report: Any = None) -> None:
    if report:
        return  # it holds no files
    from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined, unused-ignore]

    with SummaryWriter(os.environ["TENSORBOARD_LOGGING_DIR"]) as writer:  # type: ignore[no-untyped-call]
        writer.add_text("recipe", f"```json\n{json.dumps(_parameters(recipe), indent=1)}\n```")  # type: ignore[no-untyped-call]
        if rollouts:
            lines = ["|".join(COLUMNS), "|".join("-" * len(COLUMNS))]
            lines += [
                "|".join(_cell(value).replace("|", "\\|").replace("\n", " ") for value in row) for row in rollouts
            ]
            writer.add_text("rollouts", "\n".join(f"|{line}|" for line in lines))  # type: ignore[no-untyped-call]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


SENDERS: Final = {"wandb": _wandb, "trackio": _trackio, "tensorboard": _tensorboard}
"""The trackers that get more than transformers' callbacks send."""
