"""`adapters extract --constrain`: the local engine, and servers that take a grammar or do not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import test_engines
from test_engines import Reply, Server, connect, said
from test_extract import invoke, lines
from tiny import write_jsonl

from adapters.errors import UserError
from adapters.extraction import adapter_source, engines
from adapters.extraction.constraining import constraint_of
from adapters.extraction.engine import Drawing, Options, Request
from adapters.types import Example

bundle, lively_base, server, source = (
    test_engines.bundle,
    test_engines.lively_base,
    test_engines.server,
    test_engines.source,
)
llguidance = pytest.importorskip("llguidance")
TEXTS = ('Paid by the "Quoted \\ Fund"\n(C:\\new\\7).', "日本学術振興会の助成 👩‍🔬🇩🇪 を受けた。", "NSFC, 2041-77/88.")


def as_vllm(body: dict[str, Any]) -> Reply:
    """A server that writes the first answer that its grammar allows, and else its prompt."""
    if "structured_outputs" not in body:
        return said("[]")
    grammar = llguidance.grammar_from("grammar", body["structured_outputs"]["grammar"])
    tokenizer = llguidance.LLTokenizer("byte")
    matcher, answer = llguidance.LLMatcher(tokenizer, grammar), b""
    assert not matcher.is_error(), matcher.get_error()
    for wanted in (b'"constrained"', b'[{"funder_name":"NSFC"}]', b"[]"):
        if matcher.validate_tokens(list(wanted)) == len(wanted):
            answer = wanted
            break
    return said(answer.decode())


@pytest.fixture
def grammatical(server: Server) -> Server:
    server.answer = as_vllm
    return server


def test_a_server_that_takes_grammars_gets_one_for_each_text(source: Any, grammatical: Server) -> None:
    endpoint, notes = connect(source, grammatical, constrain="source")
    assert not any("grammar" in note for note in notes)
    messages = ({"role": "user", "content": "x"},)
    answers = {a.row: a.text for a in endpoint([Request(1, messages, "by NSFC"), Request(2, messages, "by nobody")])}
    assert answers == {1: '[{"funder_name":"NSFC"}]', 2: "[]"}
    assert all("response_format" not in body for body in grammatical.requests)
    options = Options(constrain="source", endpoint=grammatical.url)
    draw = engines.make_draws("endpoint", source, Drawing(2, 0.7), options, lambda _: None)
    [group] = draw([Example("a", "", messages, meta={"text": "by NSFC"})], lambda _: True)
    assert [a.text for a in group.answers] == ['[{"funder_name":"NSFC"}]'] * 3


@pytest.mark.parametrize("refuses", [True, False])
def test_another_server_says_that_it_is_held_to_the_schema_alone(
    source: Any,
    server: Server,
    tmp_path: Path,
    refuses: bool,
) -> None:
    def other(body: dict[str, Any]) -> Reply:
        if refuses and "structured_outputs" in body:
            return 400, {}, {"error": "unknown field structured_outputs"}
        return said('[{"funder_name":"Nonesuch"}]')

    server.answer = other
    endpoint, notes = connect(source, server, constrain="source")
    [note] = [note for note in notes if "grammar" in note]
    assert "constrain: source is not kept to" in note
    list(endpoint([Request(1, ({"role": "user", "content": "x"},), "by NSFC")]))
    assert "response_format" in server.requests[-1]
    assert "structured_outputs" not in server.requests[-1]
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "funding_statement": "Paid by NSFC."}])
    code, told = invoke(
        source.adapter, corpus, "-o", tmp_path / "o.jsonl", "--endpoint", server.url, "--constrain", "source"
    )
    assert code == 0, told
    assert "constrain: source is not kept to" in " ".join(told.split())
    assert "strings in the text: 1 absent" in told
    manifest = json.loads((tmp_path / "o.jsonl.manifest.json").read_text())
    assert (manifest["settings"]["constrain"], manifest["counts"]["matches"]) == ("source", {"absent": 1})


def test_a_server_of_vllm_with_another_library_is_refused_in_one_sentence(source: Any, server: Server) -> None:
    def pinned(body: dict[str, Any]) -> Reply:
        return (500, {}, {"error": {"message": "Internal server error"}}) if "structured_outputs" in body else said("")

    server.answer = pinned
    with pytest.raises(UserError, match=r"start it again with --structured-outputs-config\.backend guidance, or say"):
        connect(source, server, constrain="source")
    assert sum("structured_outputs" in body for body in server.requests) == 1, "asking again would not help"
    server.answer = lambda body: said("[]")
    server.script = [(503, {"Retry-After": "0"}, {"error": "busy"})]
    assert connect(source, server, constrain="source")[1], "an overload is waited for"


def test_an_extraction_from_before_there_were_three_words_goes_on(source: Any, server: Server, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "funding_statement": "Paid by NSFC."}])
    given = (source.adapter, corpus, "-o", tmp_path / "o.jsonl", "--endpoint", server.url)
    assert invoke(*given)[0] == 0
    path = tmp_path / "o.jsonl.manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["settings"]["constrain"] == "schema", "as servers have done it"
    path.write_text(json.dumps({**manifest, "settings": {**manifest["settings"], "constrain": True}}))
    assert "is complete already" in " ".join(invoke(*given)[1].split())
    code, told = invoke(*given, "--constrain", "off")
    assert (code, 'constrain was "schema", is "off"' in told) == (2, True)


def test_what_cannot_be_constrained_is_one_sentence(
    source: Any,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert constraint_of("transformers", source, None) is None
    assert constraint_of("endpoint", source, None, several=True) is None
    with pytest.raises(UserError, match="an echo run has none"):
        constraint_of("transformers", source, "schema")
    real = adapter_source.find(str(bundle))
    made = constraint_of("transformers", real, "source")
    assert made is not None
    assert made.how == "source"
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"llguidance, which is not installed: pip install .*\[constrain\]"):
        constraint_of("transformers", real, "schema")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("--samples", 3), ("--window", 16, "--passes", 2)], ids=["greedy", "samples", "parts"]
)
def test_every_extracted_string_stands_in_its_text(bundle: Path, tmp_path: Path, options: tuple[object, ...]) -> None:
    corpus = write_jsonl(
        tmp_path / "in.jsonl", [{"id": str(n), "funding_statement": text} for n, text in enumerate(TEXTS * 3)]
    )
    out = tmp_path / "out.jsonl"
    code, told = invoke(bundle, corpus, "-o", out, "--constrain", "source", "--max-new-tokens", 80, *options)
    assert code == 0, told
    rows = lines(out)
    assert all(row["error"] is None or "truncated: " in row["error"] for row in rows), rows
    assert any(row["chunks"] > 1 for row in rows) == ("--window" in options)
    spans = [(TEXTS[n % 3], span) for n, row in enumerate(rows) for span in row["spans"] or ()]
    assert all(text[span["start"] : span["end"]] == span["value"] for text, span in spans)
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["settings"]["constrain"] == "source"
    assert set(manifest["counts"]["matches"]) <= {"exact"}
