"""Why a request to a server failed, and whether it may succeed later."""

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

FailureKind = Literal["missing", "no ranges", "denied", "expired", "region", "temporary", "final"]


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure of one try."""

    kind: FailureKind
    """``missing``: no such file; ``no ranges``: the server cannot send a part of the file, or it
    is shorter; ``denied``: by the credentials; ``expired``: the credentials; ``region``: the bucket
    is in a different one; ``temporary``: may succeed later; ``final``: anything else."""
    cause: str
    """The reason, in a few words."""
    method: str = ""
    """Method of the HTTP request; empty if the error does not name it."""
    url: str = field(default="", repr=False)
    """Its URL; may hold secrets."""
    status: int = 0
    """Status of the answer; 0 if there was none."""
    region: str = ""
    """The bucket's region, if the answer names it."""


class RequestError(Exception):
    """A request has failed, after all its tries.

    Attributes:
        failure: the failure of the last try.
    """

    def __init__(self, failure: Failure, num_tries: int, seconds: float) -> None:
        self.failure = failure
        text = failure.cause
        if failure.method:
            tries = "1 try" if num_tries == 1 else f"{num_tries} tries"
            text = f"{failure.method}, {tries} in {seconds:.1f} s: {text}"
        if failure.kind == "temporary":
            text += "; try again, or allow more time (retry_timeout, read_timeout)"
        if failure.kind == "denied":
            text += (
                "; the credentials are missing, wrong, or do not allow this "
                "(docs/object-storage.md)"
            )
        super().__init__(text)


_REQUEST = re.compile(r"Error performing ([A-Z]+) (\S+) in ")
_STATUS = re.compile(r"status code: (\d{3})")

_FINAL = (
    (r"InvalidCertificate\(\s*(Unknown\w+|\w+NotSupported\w*)",
     r"the server's certificate is not trusted (\1); if it should be, name the file of its "
     "authority: root_certificate, or SSL_CERT_FILE"),
    (r"InvalidCertificate\(\s*(\w+)", r"the server's certificate is invalid (\1)"),
    ("InvalidContentType", "the server does not use TLS; use http://"),
    ("TooManyRedirects", "too many redirects"),
    ("NoSuchBucket|ContainerNotFound|bucket does not exist",
     "there is no such bucket; make it first"),
)  # fmt: skip
"""Patterns of failures that waiting does not end, and their cause."""
_UNKNOWN_HOST = re.compile("Name or service not known|nodename nor servname|No such host is known")

_METADATA = re.compile("/latest/(api/token|meta-data)|/computeMetadata/|/metadata/identity/")
"""URLs of the service that gives a cloud's machine its credentials."""
_NO_CREDENTIALS = (
    "no credentials are given, and this machine has none; for a public bucket, use "
    "skip_signature=true"
)

_CAUSES = (
    ("InvalidRange|StartTooLarge|Range Not Satisfiable", "the file is shorter"),
    ("kind: Timeout|TimedOut|timed out", "no answer in time"),
    ("lookup address|dns error", "the name of the host cannot be looked up"),
    (r'message: "([^"]+)"', r"\1"),
    ("response body error|IncompleteMessage", "the connection was closed before the end"),
    (r"<Code>([^<]+)</Code>", r"\1"),
    (r"status code: (\d{3} [^:\n]*)", r"\1"),
)
"""Patterns of other failures, and their cause."""
_EXPIRED = "ExpiredToken|TokenRefreshRequired|RequestExpired"
_WRONG_REGION = "AuthorizationHeaderMalformed|PermanentRedirect|redirect without LOCATION"
_BUSY = re.compile("<Code>(RequestTimeout|SlowDown|InternalError|OperationAborted|Throttl|Busy)")
"""Codes that S3 also sends with statuses 200, 400 and 409."""
_NO_ANSWER = re.compile("(?<!Generic )HTTP error: ")
_REGION = re.compile(r"<Region>([\w-]+)</Region>")
_TEMPORARY_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504, *range(506, 600)))


def failure_of(error: Exception, *, is_first: bool) -> Failure:
    """Find out from a library's error why a try failed.

    Args:
        error: obstore's; nothing but its text says what happened.
        is_first: no request to this server has succeeded yet, so its name may be wrong.
    """
    text = str(error)
    request = _REQUEST.search(text)
    method, url = request.groups() if request else ("", "")
    answered = _STATUS.search(text)
    status = int(answered[1]) if answered else 0

    region = _REGION.search(text)

    def failure(kind: FailureKind, cause: str) -> Failure:
        return Failure(kind, cause, method, url, status, region[1] if region else "")

    for pattern, cause in _FINAL:
        if match := re.search(pattern, text):
            return failure("final", match.expand(cause))
    if is_first and _UNKNOWN_HOST.search(text):
        return failure("final", f"there is no host {urlsplit(url).hostname}")
    if is_first and _METADATA.search(url):
        return failure("final", _NO_CREDENTIALS)
    matches = ((re.search(pattern, text), cause) for pattern, cause in _CAUSES)
    cause = next((match.expand(cause) for match, cause in matches if match), "")
    if not cause:
        line = re.sub(r"^Generic \w+ error: ", "", text.partition("\n")[0])
        cause = line.rpartition(" - ")[2].strip()
    if re.search(_EXPIRED, text):
        return failure("expired", f"{cause}: the credentials have expired; renew them")
    if "RangeNotSupported" in text or "NotPartial" in text or status == 416:
        is_short = status == 416
        return failure("no ranges", cause if is_short else "the server cannot send parts of files")
    if text.startswith("Generic S3") and re.search(_WRONG_REGION, text):
        return failure("region", "the bucket is in a different region; set region")
    if isinstance(error, FileNotFoundError):
        return failure("missing", "not found")
    if status in (401, 403):
        return failure("denied", cause)
    if _BUSY.search(text):
        return failure("temporary", cause)
    if status:
        is_temporary = status in _TEMPORARY_STATUS
    else:
        is_temporary = bool(_NO_ANSWER.search(text.partition("\n")[0]))
    return failure("temporary" if is_temporary else "final", cause)
