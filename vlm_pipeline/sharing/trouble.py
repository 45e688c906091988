"""What a failure of the service behind a store's URL means, in plain words, and how long it is waited for.

Told apart by names and codes: boto and the Google client are optional, and are not imported to read their errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from typing import Any, TypeVar

from vlm_pipeline.redaction import redact

PATIENCE_S = 120.0
_LONGEST_PAUSE_S = 20.0
_T = TypeVar("_T")
Say = Callable[[str], None]


class StoreError(RuntimeError):
    """The store's URL cannot be read or written; the message names it and the remedy, and holds no key."""


class StoreUnreachable(StoreError):
    """Nobody answered, however patiently."""


class StoreRefused(StoreError):
    """The service answered that it will not: credentials, permission, quota, a bucket that is not there."""


class StoreConflict(StoreError):
    """Another machine has published other content of the same files since this one began."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`passing`: it may go by itself; else `remedy` says what a person can do."""

    passing: bool
    reason: str
    remedy: str = ""


_MISSING = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "ProfileNotFound",
}
_RENEWED = {"TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError", "RefreshError"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "InvalidToken"}
_WRONG = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidClientTokenId",
    "AuthorizationHeaderMalformed",
}
_FULL = {"StorageFull", "XMinioStorageFull", "InsufficientStorage", "507"}
_FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "401", "RequestTimeTooSkewed"}
_LATER = {
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "OperationAborted",
    "Throttling",
}
_LOST = {"BotoCoreError", "ClientError", "HttpError", "FSTimeoutError", "IncompleteRead", "TransportError"}


def verdict(error: BaseException) -> Verdict | None:
    """What an exception of fsspec's file systems means; None where it is an answer (there is none such, there is one
    already) or a mistake of this program."""
    chain = list(chain_of(error))
    codes = {code for one in chain for code in codes_of(one)}
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    said = redact(str(error) or type(error).__name__)
    renew = "set the keys of this store anew in the environment (AWS_ACCESS_KEY_ID ..., or a Google login)"
    if names & _MISSING:
        return Verdict(False, f"there are no credentials ({said})", renew)
    if names & _RENEWED or codes & _EXPIRED:
        return Verdict(False, f"the credentials have expired ({said})", renew)
    if codes & _WRONG:
        return Verdict(False, f"the credentials are wrong ({said})", renew)
    if codes & _FULL or any("quota" in code.lower() for code in codes) or _errno(chain) & {ENOSPC, EDQUOT}:
        return Verdict(False, f"the quota is used up ({said})", "free space there, or have the quota raised")
    if "NoSuchBucket" in codes:
        return Verdict(False, "there is no such bucket", "make it, or mend VLM_PIPELINE_STORE")
    if isinstance(error, FileNotFoundError | FileExistsError):
        return None  # an answer
    if codes & _FORBIDDEN or isinstance(error, PermissionError):
        allowed = "allow these credentials to list, read and write below the URL"
        return Verdict(False, f"access was refused ({said})", allowed)
    numbers = {int(code) for code in codes if code.isdigit()}
    if codes & _LATER or any(number in (408, 429) or number >= 500 for number in numbers):
        return Verdict(True, f"the service is busy ({said})")
    if codes:
        return Verdict(False, f"the service refused ({said})", "mend what it names")
    if isinstance(error, OSError) or names & _LOST:
        return Verdict(True, f"no answer ({said})")
    return None


def patiently(url: str, what: str, action: Callable[[], _T], say: Say, patience_s: float | None = None) -> _T:
    """Do it, again and again while the failure may pass, with growing pauses; FileNotFoundError and FileExistsError
    are answers, and are handed on.

    Raises StoreUnreachable after `patience_s`, StoreRefused at once. Both come without the client's exception, which
    may hold a key.
    """
    from tenacity import (
        RetryError,
        Retrying,
        retry_if_exception_type,
        stop_after_delay,
        wait_random_exponential,
    )

    limit = PATIENCE_S if patience_s is None else patience_s

    def tell(state: Any) -> None:
        pause = state.next_action.sleep
        say(f"{url}: {what}: {state.outcome.exception()}; trying again in {pause:.0f} s")

    trials = Retrying(
        retry=retry_if_exception_type(_Passing),
        stop=stop_after_delay(limit),
        wait=wait_random_exponential(multiplier=1, max=min(_LONGEST_PAUSE_S, limit)),
        before_sleep=tell,
    )
    try:
        return trials(_judged, url, what, action)
    except RetryError as last:
        reason = last.last_attempt.exception()
    raise StoreUnreachable(
        f"{url}: {what}: {reason}, for {limit:.0f} s. Nothing was left half done: run the same again when the store "
        "answers; what has been uploaded is not sent twice"
    )


class _Passing(Exception):
    """A failure that may go by itself."""


def _judged(url: str, what: str, action: Callable[[], _T]) -> _T:
    try:
        return action()
    except StoreError:
        raise
    except Exception as error:
        found = verdict(error)
        if found is None:
            raise
    if found.passing:
        raise _Passing(found.reason) from None
    raise StoreRefused(f"{url}: {what}: {found.reason}. To do: {found.remedy}") from None


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 10:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1


def codes_of(error: BaseException) -> Iterator[str]:
    """Codes of an answer: S3's word and the HTTP status; Google's clients keep a number in `code`."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        yield str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status and status >= 400:
            yield str(status)
    code = getattr(error, "code", None)
    if isinstance(code, int) and code >= 400:
        yield str(code)


def _errno(chain: list[BaseException]) -> set[int | None]:
    return {one.errno for one in chain if isinstance(one, OSError)}
