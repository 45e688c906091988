"""What clients send, read: the question in a list of messages, its pictures, an uploaded file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """What a model is asked: the last user text, hashes of all pictures, and everything said so far."""

    model: str
    text: str
    images: tuple[str, ...]
    transcript: str


Answer = Callable[[Question], str]


def question_of(model: str, messages: list[dict[str, Any]]) -> Question:
    images = []
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else ():
            url = part.get("image_url")
            url = url["url"] if isinstance(url, dict) else url
            data = url.partition("base64,")[2] if url else part.get("source", {}).get("data")
            if data:
                images.append(hashlib.sha256(base64.b64decode(data)).hexdigest())
    transcript = "\n".join(text_of(message["content"]) for message in messages)
    return Question(model, last_user(messages), tuple(images), transcript)


def text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or () if isinstance(part, dict))


def last_user(messages: list[dict[str, Any]]) -> str:
    return next(
        (text_of(message["content"]) for message in reversed(messages) if message["role"] == "user"), ""
    )


def multipart(content_type: str, body: bytes) -> tuple[str, str, bytes]:
    """File name, purpose and content of the one upload that the clients send."""
    from email.parser import BytesParser
    from email.policy import HTTP

    message = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}  # type: ignore[attr-defined]
    file = parts["file"]
    return (
        file.get_filename(),
        parts["purpose"].get_payload(decode=True).decode().strip(),
        file.get_payload(decode=True),
    )
