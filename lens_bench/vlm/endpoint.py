"""A vision-language model behind an OpenAI-compatible endpoint (``POST {base_url}/chat/completions``).

Requests run side by side; answers come back in the order of the questions. What may pass is tried again, a fixed number
of times with doubling, capped pauses; what does not pass is a reply with an error, never an exception, so that the run
loop does not pay for the answers of the others a second time. The key is read from the environment, sent to the named
host only, and cut out of everything the server says.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from lens_bench.errors import RunError, UsageError
from lens_bench.parsing import parse_json
from lens_bench.perf.clock import StageClock
from lens_bench.records import UNKNOWN_COST, Cost, Tokens
from lens_bench.registry import suggest
from lens_bench.vlm.chat import Conversation, Picture, Reply, Turn
from lens_bench.vlm.transport import Address, TransportError, exchange, parse_address

# Too busy, not ready, or broken for the moment.
_MAY_PASS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_SHOWN = 200  # characters of a body in a message
_SECRET = 8  # length from which a key is one
_PROBE = "Say yes."


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How to talk to an endpoint.

    Attributes:
        base_url: Up to and without ``/chat/completions``.
        model: Name the server knows the model by.
        max_tokens: Most tokens of an answer.
        token_field: Name of the field that carries ``max_tokens``; newer servers of OpenAI want the longer one.
        temperature: 0 is greedy; None leaves it to the server, as models need that refuse any value.
        seed: Sent where it is not None.
        timeout: Seconds for one request, connection and answer together.
        retries: How often a request that failed is sent again.
        backoff: Seconds before the first repetition; doubles with each, up to ``longest_pause``.
        concurrency: Requests under way at once.
        picture: Format in which images are sent.
        forced: Every answer has exactly ``max_tokens``, which the server has to be able to do (vLLM's fields
            ``min_tokens`` and ``ignore_eos``). An answer of another length is an error.
        extra: More fields of the request.
    """

    base_url: str
    model: str
    max_tokens: int = 1024
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # noqa: S105 - a field's name
    temperature: float | None = 0.0
    seed: int | None = None
    timeout: float = 120.0
    retries: int = 4
    backoff: float = 0.5
    longest_pause: float = 30.0
    concurrency: int = 8
    picture: Literal["png", "jpeg"] = "png"
    forced: bool = False
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why a request gave no answer, whether to try again, and how long the server asks to wait."""

    why: str
    passing: bool
    wait: float | None = None


def read_key(variable: str) -> str:
    """The key in an environment variable; empty where there is none.

    Raises:
        UsageError: It holds characters that no header can carry. The message does not show it.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if not all(33 <= ord(c) <= 126 for c in key):
        raise UsageError(f"the environment variable {variable} holds something that is not a key")
    return key


def read_base_url(given: str) -> str:
    """The argument, else the environment's ``OPENAI_BASE_URL``, so that a server's port is no part of a run's identity.

    Raises:
        UsageError: Neither says where the server is.
    """
    url = given or os.environ.get("OPENAI_BASE_URL", "")
    if not url:
        raise UsageError(
            "no endpoint is named", "set OPENAI_BASE_URL, or --model-arg base_url=http://127.0.0.1:8000/v1"
        )
    return url


class Endpoint:
    """A ``Talker`` over HTTP.

    Args:
        settings: How to talk.
        key: Sent as bearer token; empty for servers that want none.
    """

    def __init__(self, settings: EndpointSettings, key: str = "") -> None:
        self.settings = settings
        self._address: Address = parse_address(settings.base_url)
        self._key = key
        self._closed = threading.Event()

    def __repr__(self) -> str:
        return f"Endpoint({self._address.name}, {self.settings.model})"

    def check(self) -> tuple[str, ...]:
        """Ask the server which models it serves, before anything is paid for. Returns notes for the load report.

        Raises:
            RunError: There is no server.
            UsageError: It refuses the key, does not serve the model, or cannot write answers of a forced length.
        """
        notes = self._listed()
        if self.settings.forced:
            self._try_forced()
        return notes

    def identity(self) -> str:
        """What tells models behind endpoints apart: the name, and what the server says of it that lasts.

        vLLM tells the folder or repository that it loaded (``root``), the base model (``parent``) and its context,
        llama.cpp the number of parameters (``meta``). What changes with every start of a server is left out.

        Raises:
            RunError: There is no server.
            UsageError: It refuses the key.
        """
        entry = next((row for row in _rows(self._models()) if row.get("id") == self.settings.model), {})
        told = {key: entry[key] for key in ("root", "parent", "max_model_len", "meta") if entry.get(key)}
        return f"endpoint {self.settings.model}" + (f" {json.dumps(told, sort_keys=True)}" if told else "")

    def _models(self) -> bytes:
        """The server's list of models; empty where it has none."""
        try:
            answer = exchange(self._address, "GET", "/models", self._headers(), None, self.settings.timeout)
        except TransportError as error:
            raise RunError(f"no endpoint at {self._address.name}: {error}", "is the server running?") from None
        if answer.status in (401, 403):
            raise UsageError(
                f"{self._address.name} refuses the key (status {answer.status})",
                "the argument key_variable names the environment variable that holds it",
            )
        return answer.body if answer.status == 200 else b""

    def _listed(self) -> tuple[str, ...]:
        served = [name for row in _rows(self._models()) if isinstance(name := row.get("id"), str)]
        if not served:
            return (f"{self._address.name} does not list its models",)
        if self.settings.model not in served:
            hint = suggest(self.settings.model, served) or f"it serves: {', '.join(served[:5])}"
            raise UsageError(f"{self._address.name} does not serve {self.settings.model!r}", self._redact(hint))
        return ()

    def _try_forced(self) -> None:
        """Whether the server writes answers of a forced length is seen by asking it for one.

        A server that does not know the fields refuses them, or ends its answer as soon as it has said the word.
        """
        body = self._body((Turn("user", (_PROBE,)),), {})
        reply = self._answer(body)
        if reply.error is not None:
            raise UsageError(
                f"answers cannot be forced to a length: {reply.error}",
                "vLLM's server can (min_tokens and ignore_eos); else leave out --new-tokens",
            )

    def costs(self, conversations: Sequence[Conversation], replies: Sequence[Reply]) -> Mapping[str, Cost]:
        """What a server does is not known."""
        return {"answer": UNKNOWN_COST}

    def ask(self, conversations: Sequence[Conversation], clock: StageClock | None = None) -> list[Reply]:
        """One reply per conversation, in order; errors are in the replies. The clock takes the stage ``answer``."""
        if not conversations:
            return []
        with (clock or StageClock("cpu")).stage("answer"):
            return self._ask(conversations)

    def _ask(self, conversations: Sequence[Conversation]) -> list[Reply]:
        pictures = {p: self._data_url(p) for c in conversations for t in c for p in t.parts if isinstance(p, Picture)}
        pool = ThreadPoolExecutor(min(self.settings.concurrency, len(conversations)), "endpoint")
        try:
            # Bodies are written by the workers: an image is megabytes in each of them.
            return list(pool.map(lambda conversation: self._answer(self._body(conversation, pictures)), conversations))
        except BaseException:  # Ctrl-C: nobody waits for pauses and for requests that have not begun
            self._closed.set()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End pauses between repetitions."""
        self._closed.set()

    # ------------------------------------------------------------------------------------------ one request

    def _answer(self, body: bytes) -> Reply:
        trouble = _Trouble("not asked", passing=False)
        for attempt in range(1 + self.settings.retries):
            if self._closed.is_set():
                return Reply(error="the run was ended")
            found = self._try(body)
            if isinstance(found, Reply):
                return found
            trouble = found
            if not trouble.passing or attempt == self.settings.retries:
                break
            self._closed.wait(self._pause(attempt, trouble.wait))
        tries = f" ({attempt + 1} attempts)" if attempt else ""
        return Reply(error=self._redact(f"endpoint {self._address.name}: {trouble.why}{tries}"))

    def _pause(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next attempt: doubling, at least what the server asks for, never more than the cap."""
        return min(self.settings.longest_pause, max(self.settings.backoff * 2.0**attempt, asked or 0.0))

    def _try(self, body: bytes) -> Reply | _Trouble:
        said = self.settings
        try:
            answer = exchange(self._address, "POST", "/chat/completions", self._headers(), body, self.settings.timeout)
        except TransportError as error:
            return _Trouble(str(error), passing=True)
        if answer.status != 200:
            why = f"status {answer.status}: {self._shown(answer.body)}"
            return _Trouble(why, answer.status in _MAY_PASS, _seconds(answer.retry_after))
        reply = read_completion(answer.body)
        if reply is None:
            return _Trouble(f"the answer is not a chat completion: {self._shown(answer.body)}", passing=True)
        if said.forced and (reply.tokens is None or reply.tokens.completion != said.max_tokens):
            wrote = "an unknown number of" if reply.tokens is None else reply.tokens.completion
            return _Trouble(f"the answer has {wrote} tokens, {said.max_tokens} were forced", passing=False)
        return Reply(self._redact(reply.text), reply.tokens, reply.cut)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "lens-bench"}
        return {**headers, "Authorization": f"Bearer {self._key}"} if self._key else headers

    def _redact(self, text: str) -> str:
        # Shorter ones are placeholders that local servers want ("EMPTY"), and would be cut out of ordinary words.
        return text.replace(self._key, "[key]") if len(self._key) >= _SECRET else text

    def _shown(self, body: bytes) -> str:
        """The beginning of a body for a message; the key is cut out first, lest half of it be left at the end."""
        text = self._redact(body.decode("utf-8", "replace"))
        return " ".join(text[: 4 * _SHOWN].split())[:_SHOWN] or "(empty)"

    # ------------------------------------------------------------------------------------------ writing

    def _body(self, conversation: Conversation, pictures: Mapping[Picture, str]) -> bytes:
        said = self.settings
        request: dict[str, object] = {
            "model": said.model,
            "messages": [_message(turn, pictures) for turn in conversation],
            said.token_field: said.max_tokens,
        }
        if said.temperature is not None:
            request["temperature"] = said.temperature
        if said.seed is not None:
            request["seed"] = said.seed
        if said.forced:
            request |= {"min_tokens": said.max_tokens, "ignore_eos": True}
        return json.dumps({**request, **said.extra}).encode()

    def _data_url(self, picture: Picture) -> str:
        stream = io.BytesIO()
        if self.settings.picture == "png":
            Image.fromarray(picture.pixels).save(stream, "PNG", compress_level=1)
        else:
            Image.fromarray(picture.pixels).save(stream, "JPEG", quality=95, subsampling=0)
        return f"data:image/{self.settings.picture};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _message(turn: Turn, pictures: Mapping[Picture, str]) -> dict[str, object]:
    """A turn as the API writes it; turns without pictures as plain text, which every server understands."""
    if not any(isinstance(part, Picture) for part in turn.parts):
        return {"role": turn.role, "content": turn.text}
    content: list[dict[str, object]] = []
    for part in turn.parts:
        if isinstance(part, Picture):
            content.append({"type": "image_url", "image_url": {"url": pictures[part]}})
        else:
            content.append({"type": "text", "text": part})
    return {"role": turn.role, "content": content}


# ---------------------------------------------------------------------------------------------- reading


def read_completion(body: bytes) -> Reply | None:
    """Read a chat completion; None for anything that is not one. Total: no bytes make it raise."""
    content = _json(body)
    choices = content.get("choices") if isinstance(content, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(content, dict) or not isinstance(choice, dict) or not isinstance(message, dict):
        return None
    text = _text(message.get("content"))
    if text is None:
        # A model that declines, or that used up its tokens while thinking, has answered: with nothing.
        refusal = message.get("refusal")
        text = refusal if isinstance(refusal, str) else ""
    # JSON can spell halves of characters, which no file takes.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return Reply(text, _tokens(content.get("usage")), choice.get("finish_reason") == "length")


def _text(content: object) -> str | None:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return None


def _tokens(usage: object) -> Tokens | None:
    if not isinstance(usage, dict):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    prompt, completion = (c if isinstance(c, int) and not isinstance(c, bool) and c >= 0 else None for c in counts)
    return None if prompt is None or completion is None else Tokens(prompt, completion)


def _rows(body: bytes) -> list[dict[str, object]]:
    """Entries of a list of models."""
    content = _json(body)
    rows = content.get("data") if isinstance(content, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _json(body: bytes) -> object:
    try:
        content: object = parse_json(body)
    except ValueError:
        return None
    return content


def _seconds(header: str | None) -> float | None:
    """``Retry-After`` in seconds; None for a date, and for what is no number."""
    try:
        seconds = float(header) if header is not None else math.nan
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
