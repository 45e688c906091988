"""One request and one answer in each provider's words, by the providers' own clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.inference.chat import anthropic_messages, openai_chat, openai_responses, with_calls
from vlm_pipeline.inference.patience import MalformedAnswer
from vlm_pipeline.settings.predictors import GenerationSettings

SAMPLING = ("temperature", "top_p", "top_k")


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    finish_reason: str  # "stop", "length", "refused", or the provider's own word
    tokens_in: int
    tokens_out: int


class Api:
    """One provider's request. `request` is the JSON body, `parse` reads the decoded answer (batches use both)."""

    ignored: frozenset[str] = frozenset()  # generation settings that this API cannot express
    most_stops: int | None = None  # stop strings that it takes

    def __init__(self, client: Any, model: str) -> None:
        self.client, self.model = client, model

    def request(self, talk: Conversation, generation: GenerationSettings) -> dict[str, Any]:
        raise NotImplementedError

    def send(self, body: dict[str, Any], key: str) -> Any:
        raise NotImplementedError

    def parse(self, answer: Any) -> Reply:
        raise NotImplementedError

    def most_out(self, generation: GenerationSettings) -> int:
        """Tokens that an answer may have: what is asked for, and paid at most."""
        return generation.max_new_tokens

    def unmet(self, generation: GenerationSettings) -> list[str]:
        """Settings that decide the task's own generation and not this model's: written beside the table."""
        default = GenerationSettings()
        names = {name for name in self.ignored if getattr(generation, name) != getattr(default, name)}
        return sorted(names | ({"seed"} if generation.do_sample else set()))

    def refuse(self, generation: GenerationSettings) -> str | None:
        """Why these settings cannot be asked at all: cutting some off would measure something else."""
        if self.most_stops is not None and len(generation.stop) > self.most_stops:
            return f"this API takes {self.most_stops} stop strings, the generation settings have {len(generation.stop)}"
        return None


class OpenAIChat(Api):
    """Chat completions of OpenAI, Azure, or a compatible server (`compatible`: its own names of settings)."""

    ignored = frozenset({"top_k", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens"})
    most_stops = 4

    def __init__(self, client: Any, model: str, *, compatible: bool = False) -> None:
        super().__init__(client, model)
        self._compatible = compatible
        if compatible:
            self.ignored, self.most_stops = frozenset({"no_repeat_ngram_size"}), None

    def request(self, talk: Conversation, generation: GenerationSettings) -> dict[str, Any]:
        body = {"model": self.model, **openai_chat(talk)}
        body["max_tokens" if self._compatible else "max_completion_tokens"] = generation.max_new_tokens
        body["temperature"] = generation.temperature if generation.do_sample else 0
        if generation.do_sample and generation.top_p < 1:
            body["top_p"] = generation.top_p
        if generation.stop:
            body["stop"] = generation.stop
        if self._compatible:  # the names of vLLM and SGLang
            extra = {
                "top_k": generation.top_k if generation.do_sample else 0,
                "min_tokens": generation.min_new_tokens,
            }
            body |= {name: value for name, value in extra.items() if value}
            if generation.repetition_penalty != 1.0:
                body["repetition_penalty"] = generation.repetition_penalty
        return body

    def send(self, body: dict[str, Any], key: str) -> Any:
        named = {
            "model",
            "messages",
            "tools",
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "stop",
        }
        extra = {name: value for name, value in body.items() if name not in named}
        known = {name: value for name, value in body.items() if name in named}
        headers = {"Idempotency-Key": key}
        return self.client.chat.completions.create(**known, extra_body=extra or None, extra_headers=headers)

    def parse(self, answer: Any) -> Reply:
        try:
            choice, usage = answer.choices[0], answer.usage
            message, reason = choice.message, choice.finish_reason
            calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
            refusal = getattr(message, "refusal", None)
            text = refusal or with_calls(message.content, calls)
            tokens_in, tokens_out = usage.prompt_tokens, usage.completion_tokens
        except (AttributeError, IndexError, TypeError, KeyError) as error:
            raise MalformedAnswer(f"no choices, message or usage in the answer ({error})") from error
        if not isinstance(text, str) or reason is None:
            raise MalformedAnswer("the answer has no text and no reason why")
        reason = (
            "refused" if refusal else {"tool_calls": "stop", "content_filter": "refused"}.get(reason, reason)
        )
        return Reply(text, reason, tokens_in, tokens_out)


class OpenAIResponses(Api):
    ignored = OpenAIChat.ignored | {"stop"}

    def most_out(self, generation: GenerationSettings) -> int:
        return max(16, generation.max_new_tokens)  # the API's own minimum

    def request(self, talk: Conversation, generation: GenerationSettings) -> dict[str, Any]:
        body = {"model": self.model, **openai_responses(talk), "store": False}
        body["max_output_tokens"] = self.most_out(generation)
        body["temperature"] = generation.temperature if generation.do_sample else 0
        if generation.do_sample and generation.top_p < 1:
            body["top_p"] = generation.top_p
        return body

    def send(self, body: dict[str, Any], key: str) -> Any:
        return self.client.responses.create(**body, extra_headers={"Idempotency-Key": key})

    def parse(self, answer: Any) -> Reply:
        try:
            calls = [(item.name, item.arguments) for item in answer.output if item.type == "function_call"]
            parts = [part for item in answer.output if item.type == "message" for part in item.content]
            refusals = [part.refusal for part in parts if part.type == "refusal"]
            text = "".join(part.text for part in parts if part.type == "output_text")
            status, usage = answer.status, answer.usage
            tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
        except (AttributeError, TypeError, KeyError) as error:
            raise MalformedAnswer(f"no output or usage in the answer ({error})") from error
        if status not in ("completed", "incomplete"):
            raise MalformedAnswer(f"the response is {status}")
        if refusals:
            return Reply(refusals[0], "refused", tokens_in, tokens_out)
        return Reply(
            with_calls(text, calls), "stop" if status == "completed" else "length", tokens_in, tokens_out
        )


class AnthropicMessages(Api):
    # It takes temperature or top_p, and newer models refuse both together.
    ignored = frozenset({"top_p", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens"})

    def unmet(self, generation: GenerationSettings) -> list[str]:
        above = ["temperature above 1"] if generation.do_sample and generation.temperature > 1 else []
        return [*super().unmet(generation), *above]

    def request(self, talk: Conversation, generation: GenerationSettings) -> dict[str, Any]:
        body = {"model": self.model, **anthropic_messages(talk), "max_tokens": generation.max_new_tokens}
        body["temperature"] = min(1.0, generation.temperature) if generation.do_sample else 0
        if generation.do_sample and generation.top_k:
            body["top_k"] = generation.top_k
        if generation.stop:
            body["stop_sequences"] = generation.stop
        return body

    def send(self, body: dict[str, Any], key: str) -> Any:
        # The client no longer names sampling settings (newer models refuse them), the API takes them where it can.
        sampling = {name: body[name] for name in SAMPLING if name in body}
        named = {name: value for name, value in body.items() if name not in SAMPLING}
        headers = {"Idempotency-Key": key}
        return self.client.messages.create(**named, extra_body=sampling or None, extra_headers=headers)

    def parse(self, answer: Any) -> Reply:
        try:
            text = "".join(block.text for block in answer.content if block.type == "text")
            calls = [(block.name, block.input) for block in answer.content if block.type == "tool_use"]
            reason, usage = answer.stop_reason, answer.usage
            tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
        except (AttributeError, TypeError, KeyError) as error:
            raise MalformedAnswer(f"no content or usage in the answer ({error})") from error
        if reason is None:
            raise MalformedAnswer("the answer has no stop reason")
        names = {
            "end_turn": "stop",
            "stop_sequence": "stop",
            "tool_use": "stop",
            "max_tokens": "length",
            "refusal": "refused",
        }
        return Reply(with_calls(text, calls), names.get(reason, reason), tokens_in, tokens_out)
