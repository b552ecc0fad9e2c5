"""Secrets are found by their variable's name and by their shape, and are never repeated."""

from __future__ import annotations

import pytest

from adapters import secrets

TOKENS = [
    "hf_" + "aB3" * 10,
    "ghp_" + "x1" * 18,
    "github_pat_" + "a1_" * 10,
    "glpat-" + "a1b2" * 5,
    "AKIA" + "A1" * 8,
    "sk-proj-" + "aB3_" * 8,
    "xoxb-" + "1234567890-ab",
    "tml-" + "aB3" * 8,
    "eyJhbGciOi.eyJzdWIi.x-y",
    "-----BEGIN RSA PRIVATE KEY-----",
    "Authorization: Basic dXNlcjprZXk=",
    "authorization': 'Bearer abcdef123",
]


@pytest.mark.parametrize(
    "name", ["WANDB_API_KEY", "wandb_api_key", "Wandb_Api_Key", "hf_token", "DbPassword", "aws_secret_access_key"]
)
def test_secret_names_are_found_in_any_case(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "of no shape at all")
    assert secrets.values()["of no shape at all"] == name
    assert secrets.find(["name: x # of no shape at all"]) == f"the value of {name}"
    assert secrets.redact("key: of no shape at all.") == "key: ***."


@pytest.mark.parametrize(
    ("name", "value"), [("TOKENIZERS_PARALLELISM", "disabled"), ("HF_TOKEN", "short"), ("A", "b" * 9)]
)
def test_other_variables_are_no_secrets(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert value not in secrets.values()


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_are_found_by_their_shape(token: str) -> None:
    assert secrets.find([f"trl: {{hub_token: {token}}}"]) == "what looks like an access token"
    assert secrets.redact(f"refused: {token}") == "refused: ***"


@pytest.mark.parametrize(
    "text", ["sk-parallel-corpus-2020-filtered", "hf_internal-testing/tiny", "a task-of-many-words-and-1-Number-more"]
)
def test_ordinary_names_are_no_tokens(text: str) -> None:
    assert secrets.find([text]) is None
    assert secrets.redact(text) == text
