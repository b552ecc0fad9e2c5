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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from transformers import TrainerCallback

from adapters.backends.jobs import Job
from adapters.errors import UserError
from adapters.files import numbered_jsonl, read_json, sha256, write_json
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import own_options

if TYPE_CHECKING:
    from adapters.recipe.stages import Stage

FILE: Final = "tracking.json"
"""In a stage's folder: the run's id there, and the hash of the report that was sent."""
ROLLOUTS: Final = 1_000
"""Rows of the table of rollouts, at most: the newest."""
COLUMNS: Final = ("step", "id", "reward", "score", "completion")
LOGS: Final = "TENSORBOARD_LOGGING_DIR"
PROJECT: Final = "huggingface"
"""The project of W&B and trackio, as transformers has it."""
LOGINS: Final = {
    "comet_ml": ("COMET_API_KEY", "~/.comet.config", ".comet.config"),
    "neptune": ("NEPTUNE_API_TOKEN",),
    "clearml": ("CLEARML_API_ACCESS_KEY", "~/clearml.conf"),
    "swanlab": ("SWANLAB_API_KEY", "~/.swanlab/.netrc"),
}
"""Tracker -> the variable that holds its key, and the files that may."""


def check_login(name: str, at: Sequence[str | int]) -> None:
    """Raise UserError for a tracker without a login, which would ask for one, or fail, once the base is loaded."""
    variable, *places = LOGINS.get(name, ("",))
    offline = os.environ.get("COMET_MODE", "").lower() in ("offline", "disabled") and name == "comet_ml"
    if variable and not (offline or os.environ.get(variable) or any(Path(p).expanduser().exists() for p in places)):
        raise UserError(f"{name} has no login on this machine: set {variable}.", at=at)
    if name != "wandb" or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return
    settings = configparser.ConfigParser()
    settings.read([Path("~/.config/wandb/settings").expanduser(), Path("wandb/settings")], encoding="utf-8")
    mode = os.environ.get("WANDB_MODE") or settings.get("default", "mode", fallback="online")
    address = os.environ.get("WANDB_BASE_URL") or settings.get("default", "base_url", fallback="https://api.wandb.ai")
    host = urlsplit(str(address)).netloc
    if mode == "online" and not _in_netrc(host):
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
    """While a stage trains, its trackers' callbacks log to the run of its folder."""
    if not recipe.report_to or not main:
        yield
        return
    if not (folder / FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, {"id": secrets.token_hex(4)})
    name = run_name(recipe, job.stage, folder)
    before = os.environ.get(LOGS)
    os.environ[LOGS] = str(Path(before or job.folder.parent / "tensorboard") / name)
    # The callback of transformers takes an open run. It would name its own by WANDB_RUN_ID, which W&B reads once.
    run = _open_wandb(name) if "wandb" in recipe.report_to else None
    code = 1
    try:
        yield
        code = 0
    finally:
        os.environ.pop(LOGS)
        if before is not None:
            os.environ[LOGS] = before
        if run:
            run.finish(exit_code=code)


def _open_wandb(name: str) -> Any:
    import wandb  # type: ignore[import-not-found, unused-ignore]

    return wandb.init(project=os.environ.get("WANDB_PROJECT", PROJECT), id=name, name=name, resume="allow")


class Extras(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Sends the recipe when training begins, and the rollouts in `folder` at the last step.

    It stands behind the trackers' own callbacks: their runs are open at both times. A tracker that fails here is named
    in the log and fails no stage.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder, self.sent = recipe, folder, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the recipe to the run's parameters."""
        if state.is_world_process_zero:
            self._send("parameters", self.recipe.model_dump(mode="json", exclude_defaults=True))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Send the table once, when no step is left."""
        last = state.global_step >= state.max_steps or control.should_training_stop
        if state.is_world_process_zero and last and not self.sent and (rows := _table(self.folder)):
            self.sent = True
            self._send("rollouts", rows)

    def _send(self, what: str, value: Any) -> None:
        for tracker in self.recipe.report_to:
            if send := SENDERS.get((tracker, what)):
                with _logged(tracker, what):
                    send(value)


@contextmanager
def _logged(tracker: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        logging.getLogger(__name__).exception("%s did not take the %s", tracker, what)


def send_report(recipe: Recipe, folder: Path, page: Path) -> None:
    """Add the page of a run to the run of its last stage, in `folder`, where the tracker takes files.

    Once; again by the next call where a tracker failed.
    """
    known = read_json(folder / FILE)
    if not (recipe.report_to and known.get("id") and page.is_file()) or known.get("report") == (
        content := sha256(page)
    ):
        return
    stage = recipe.stages[-1]
    name, title = run_name(recipe, stage, folder), f"{recipe.name}-report"
    missing = {"wandb", "trackio"}.intersection(recipe.report_to)
    if "wandb" in recipe.report_to:
        with _logged("wandb", "report"):
            run = _open_wandb(name)
            try:
                run.log_artifact(str(page), name=title, type="report")
                missing.remove("wandb")
            finally:
                run.finish()
    if "trackio" in recipe.report_to:
        with _logged("trackio", "report"):
            import trackio  # type: ignore[import-not-found, unused-ignore]

            _, options = own_options(stage)
            place = {key: options.get(f"trackio_{key}") for key in ("space_id", "bucket_id")}
            name = options.get("run_name", name)
            trackio.init(project=options.get("project", PROJECT), name=name, resume="allow", embed=False, **place)
            try:
                trackio.log_artifact(page, name=title, type="report")
                missing.remove("trackio")
            finally:
                trackio.finish()
    if not missing:
        write_json(folder / FILE, known | {"report": content})


def _table(folder: Path) -> list[list[Any]]:
    """The newest graded completions of a stage, one row for each completion and reward."""
    rows = [row for path in sorted(folder.glob("rollouts-*.jsonl")) for _, row in numbered_jsonl(path)]
    rows.sort(key=lambda row: row.get("step", 0))
    return [[row.get(column) for column in COLUMNS] for row in rows[-ROLLOUTS:]]


def _wandb_parameters(recipe: Mapping[str, Any]) -> None:
    import wandb

    wandb.config.update({"recipe": recipe}, allow_val_change=True)


def _wandb_rollouts(rows: Sequence[Sequence[Any]]) -> None:
    import wandb

    wandb.log({"rollouts": wandb.Table(columns=list(COLUMNS), data=[[_cell(value) for value in row] for row in rows])})


def _trackio_parameters(recipe: Mapping[str, Any]) -> None:
    import trackio

    trackio.config.update({"recipe": recipe}, allow_val_change=True)


def _trackio_rollouts(rows: Sequence[Sequence[Any]]) -> None:
    import pandas  # type: ignore[import-untyped, unused-ignore]
    import trackio

    trackio.log({"rollouts": trackio.Table(dataframe=pandas.DataFrame(rows, columns=list(COLUMNS)))})


def _tensorboard_parameters(recipe: Mapping[str, Any]) -> None:
    _write_text("recipe", f"```json\n{json.dumps(recipe, indent=1)}\n```")


def _tensorboard_rollouts(rows: Sequence[Sequence[Any]]) -> None:
    cells = ([_cell(value).replace("|", "\\|").replace("\n", " ") for value in row] for row in rows)
    lines = ["|".join(row) for row in (COLUMNS, ["-"] * len(COLUMNS), *cells)]
    _write_text("rollouts", "\n".join(f"|{line}|" for line in lines))


def _write_text(tag: str, text: str) -> None:
    from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined, unused-ignore]

    with SummaryWriter(os.environ[LOGS]) as writer:  # type: ignore[no-untyped-call, unused-ignore]
        writer.add_text(tag, text)  # type: ignore[no-untyped-call, unused-ignore]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


SENDERS: Final[Mapping[tuple[str, str], Callable[[Any], None]]] = {
    ("wandb", "parameters"): _wandb_parameters,
    ("wandb", "rollouts"): _wandb_rollouts,
    ("trackio", "parameters"): _trackio_parameters,
    ("trackio", "rollouts"): _trackio_rollouts,
    ("tensorboard", "parameters"): _tensorboard_parameters,
    ("tensorboard", "rollouts"): _tensorboard_rollouts,
}
"""What trackers get beside what the callbacks of transformers send."""
