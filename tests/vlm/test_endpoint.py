"""The endpoint client against real servers, good and bad."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.errors import RunError, UsageError
from lens_bench.perf.clock import StageClock
from lens_bench.records import Tokens
from lens_bench.vlm.chat import Picture, Turn, question
from lens_bench.vlm.endpoint import Endpoint, EndpointSettings, read_base_url, read_completion, read_key
from lens_bench.vlm.transport import parse_address

from .servers import FakeServer, completion, pictures_of, serve, text_of

KEY = "sk-test-0123456789abcdef"
PICTURE = Picture(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serve(FakeServer(lambda request: f"you said {text_of(request)}")) as fake:
        yield fake


def endpoint(server: FakeServer, key: str = "", **more: Any) -> Endpoint:
    settings = EndpointSettings(server.url, "tiny", backoff=0.001, longest_pause=0.01, timeout=60.0, retries=2)
    return Endpoint(replace(settings, **more), key)


def ask(server: FakeServer, *texts: str, **more: Any) -> list[Any]:
    return endpoint(server, **more).ask([question(PICTURE, text) for text in texts])


def test_answers_come_in_order_and_side_by_side(server: FakeServer) -> None:
    texts = [f"number {n}" for n in range(12)]

    def late(request: dict[str, Any]) -> float:
        """The first is not answered before another is asked."""
        number = int(text_of(request).split()[1])
        until = time.monotonic() + 30
        while not number and server.busiest < 2 and time.monotonic() < until:
            time.sleep(0.01)
        return 0.1 if number % 3 == 0 else 0.0

    server.delay = late
    replies = ask(server, *texts, concurrency=4)
    assert [r.text for r in replies] == [f"you said {t}" for t in texts]
    assert replies[3].tokens == Tokens(8, 17) and not replies[3].cut and replies[3].error is None
    assert 1 < server.busiest <= 4


def test_a_request_is_what_the_protocol_wants(server: FakeServer) -> None:
    told = endpoint(server, seed=3, max_tokens=9, token_field="max_completion_tokens", extra={"top_k": 1})
    told.ask([(Turn("system", ("be brief",)), Turn("user", (PICTURE, "what is it?")))])
    (request,) = server.requests
    assert request["messages"][0] == {"role": "system", "content": "be brief"}
    picture, text = request["messages"][1]["content"]
    assert text == {"type": "text", "text": "what is it?"} and picture["type"] == "image_url"
    np.testing.assert_array_equal(pictures_of(request["messages"][1])[0], PICTURE.pixels)
    del request["messages"]
    assert request == {"model": "tiny", "max_completion_tokens": 9, "temperature": 0.0, "seed": 3, "top_k": 1}
    ask(server, "x", temperature=None, picture="jpeg")
    assert "temperature" not in server.requests[-1]
    assert pictures_of(server.requests[-1]["messages"][0])[0].shape == (20, 30, 3)


PASSING = ["500", "503", "busy", "cut", "drop", "garbage", "deep", "wrong"]


@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_is_tried_again(server: FakeServer, kind: str) -> None:
    server.faults = {"bad": [kind, kind, "ok"]}
    good, bad = ask(server, "good", "bad")
    assert (good.text, bad.text) == ("you said good", "you said bad")
    assert server.attempts["bad"] == 3


@pytest.mark.parametrize("kind", PASSING)
def test_what_stays_is_an_error_of_its_own_question_alone(server: FakeServer, kind: str) -> None:
    server.faults = {"bad": [kind]}
    good, bad, last = ask(server, "good", "bad", "last")
    assert (good.text, last.text) == ("you said good", "you said last")
    assert bad.text == "" and "(3 attempts)" in bad.error and server.url in bad.error
    assert server.attempts["bad"] == 3


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_a_server_that_never_ends_is_left(server: FakeServer, kind: str) -> None:
    server.faults = {"bad": [kind, "ok"], "worse": [kind]}
    bad, worse = ask(server, "bad", "worse", timeout=2.0, retries=1)
    assert bad.text == "you said bad"
    assert "no complete answer within 2 s (2 attempts)" in worse.error


@pytest.mark.parametrize("kind", ["400", "404", "422", "redirect"])
def test_what_cannot_pass_is_not_tried_again(server: FakeServer, kind: str) -> None:
    server.faults = {"bad": [kind]}
    (bad,) = ask(server, "bad")
    assert server.attempts["bad"] == 1
    assert f"status {307 if kind == 'redirect' else kind}" in bad.error and "attempts" not in bad.error


def test_a_pause_doubles_up_to_a_cap_and_heeds_the_server(server: FakeServer) -> None:
    server.faults = {"bad": ["500"], "busy": ["busy"]}
    for text, pauses in (("bad", [0.5, 1.0, 2.0, 3.0, 3.0]), ("busy", [3.0] * 5)):
        asked = endpoint(server, retries=5, backoff=0.5, longest_pause=3.0)
        waited: list[float] = []
        asked._closed.wait = lambda seconds, waited=waited: bool(waited.append(seconds))  # type: ignore[method-assign]
        assert asked.ask([question(PICTURE, text)])[0].error
        assert waited == pauses


def test_a_closed_endpoint_asks_nothing(server: FakeServer) -> None:
    asked = endpoint(server)
    asked.close()
    assert asked.ask([question(PICTURE, "x")])[0].error == "the run was ended"
    assert not server.requests


# ---------------------------------------------------------------------------------------------- the key


def test_the_key_goes_to_its_host_and_nowhere_else(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    with serve(FakeServer(lambda request: "gotcha")) as thief:
        server.faults, server.redirect = {"away": ["redirect"], "echo": ["echo"]}, f"{thief.url}/chat/completions"
        server.answer = lambda request: f"your key is {KEY}"
        asked = endpoint(server, key=KEY)
        asked.check()
        replies = asked.ask([question(PICTURE, text) for text in ("away", "echo", "tell me")])
        assert not thief.headers
    assert {h["Authorization"] for h in server.headers} == {f"Bearer {KEY}"}
    shown = repr(replies) + repr(asked) + caplog.text
    assert KEY[:10] not in shown and "[key]" in shown
    assert all(KEY not in json.dumps(request) for request in server.requests)


def test_no_key_no_header_and_placeholders_are_no_secrets(server: FakeServer) -> None:
    server.answer = lambda request: "1 EMPTY box"
    assert endpoint(server).ask([question(PICTURE, "x")])[0].text == "1 EMPTY box"
    assert "Authorization" not in server.headers[-1]
    assert endpoint(server, key="EMPTY").ask([question(PICTURE, "x")])[0].text == "1 EMPTY box"


def test_a_key_is_read_from_the_environment_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    assert read_key("SOME_KEY") == KEY and read_key("NO_SUCH_VARIABLE") == "" and read_key("") == ""
    monkeypatch.setenv("SOME_KEY", f"{KEY}\nX-Evil: 1")
    with pytest.raises(UsageError, match="SOME_KEY") as caught:
        read_key("SOME_KEY")
    assert KEY not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    "url",
    ["", "localhost:80", "ftp://x", "http://", "http://a:b@host/v1", "http://h?key=1", "http://h:99999", "http://["],
)
def test_urls_that_are_none_or_hold_secrets_are_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(url)
    assert "a:b" not in caught.value.message


def test_where_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UsageError, match="no endpoint"):
        read_base_url("")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://there/v1")
    assert read_base_url("") == "http://there/v1" and read_base_url("http://here") == "http://here"
    address = parse_address("https://host:8443/v1/")
    assert (address.secure, address.host, address.port, address.path) == (True, "host", 8443, "/v1")


# ---------------------------------------------------------------------------------------------- before the questions


def test_check_finds_what_is_wrong_before_anything_is_asked(server: FakeServer) -> None:
    assert endpoint(server).check() == ()
    with pytest.raises(UsageError, match="does not serve 'tinny'") as caught:
        endpoint(server, model="tinny").check()
    assert "tiny" in caught.value.hint
    server.faults = {"GET": ["401"]}
    with pytest.raises(UsageError, match="refuses the key"):
        endpoint(server).check()
    server.served = None
    assert "does not list" in endpoint(server).check()[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = replace(endpoint(server).settings, base_url=f"http://127.0.0.1:{free.getsockname()[1]}/v1")
        with pytest.raises(RunError, match="no endpoint at"):
            Endpoint(gone).check()


# ---------------------------------------------------------------------------------------------- forced lengths


def obedient(request: dict[str, Any]) -> str:
    """A server that knows vLLM's fields; the fake one counts characters as tokens."""
    return "x" * int(request["min_tokens"]) if request.get("ignore_eos") else "yes"


def test_an_endpoint_that_can_force_a_length_does(server: FakeServer) -> None:
    server.answer = obedient
    told = endpoint(server, forced=True, max_tokens=37)
    assert told.check() == ()
    assert [r.tokens.completion for r in told.ask([question(PICTURE, t) for t in "abc"]) if r.tokens] == [37, 37, 37]
    assert all((r["min_tokens"], r["max_tokens"]) == (37, 37) for r in server.requests)
    assert text_of(server.requests[0]) == "Say yes."


def test_a_length_that_a_server_does_not_know_is_refused_before_anything_is_asked(server: FakeServer) -> None:
    server.answer = lambda request: "yes"
    with pytest.raises(UsageError, match="3 tokens, 37 were forced") as caught:
        endpoint(server, forced=True, max_tokens=37).check()
    assert "min_tokens" in caught.value.hint and len(server.requests) == 1
    server.faults = {"Say": ["400"]}
    with pytest.raises(UsageError, match=r"cannot be forced to a length: .*status 400"):
        endpoint(server, forced=True, max_tokens=37).check()


def test_an_answer_of_another_length_is_an_error(server: FakeServer) -> None:
    server.answer = lambda request: "short" if "b" in text_of(request) else obedient(request)
    fine, short = endpoint(server, forced=True, max_tokens=9).ask([question(PICTURE, t) for t in "ab"])
    assert fine.error is None and short.error is not None and "5 tokens, 9 were forced" in short.error
    assert len(server.requests) == 2


def test_what_an_endpoint_does_is_not_known(server: FakeServer) -> None:
    clock = StageClock("cpu")
    told = endpoint(server)
    asked = [question(PICTURE, "x")]
    costs = told.costs(asked, told.ask(asked, clock))
    assert costs.keys() == clock.seconds().keys() == {"answer"} and not costs["answer"].known


# ---------------------------------------------------------------------------------------------- reading completions


def test_completions_of_several_dialects() -> None:
    def read(message: object, **more: object) -> Any:
        return read_completion(json.dumps({"choices": [{"message": message, **more}]}).encode())

    assert read({"content": [{"type": "text", "text": "a"}, {"text": "b"}, 3]}).text == "ab"
    assert read({"content": None, "refusal": "no"}).text == "no"
    assert read({"content": None}, finish_reason="length").cut
    assert read({"content": "x"}).tokens is None
    assert read({"content": "a\ud800b"}).text == "a\ufffdb"
    assert read_completion(completion("hi", {"messages": [{"content": "x"}]})).tokens == Tokens(1, 2)  # type: ignore[union-attr]
    assert read_completion(b'{"error": {"message": "overloaded"}}') is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "message", "content", "usage", "prompt_tokens", "text"]), inner)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps({"choices": [{"message": value}]}).encode()))
def test_reading_is_total(body: bytes) -> None:
    reply = read_completion(body)
    if reply is not None:
        assert reply.text.encode() is not None and reply.error is None
