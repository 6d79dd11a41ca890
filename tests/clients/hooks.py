"""What Schemathesis has to know of a daemon: `/events` does not end by itself, so a reader takes what comes and goes."""

import requests
import schemathesis

EVENT_STREAM = "text/event-stream"
# What a reader waits for when nothing comes, and what is enough: the first event says hello, and what was missed follows.
SILENCE_SECONDS = 0.15
ENOUGH_BYTES = 64 * 1024


def take_what_comes(response, **_):
    """Reads an endless answer as far as it has come, in whole events."""
    if not response.headers.get("content-type", "").startswith(EVENT_STREAM):
        return response
    connection = getattr(response.raw, "connection", None) or getattr(response.raw, "_connection", None)
    if connection is not None and connection.sock is not None:
        connection.sock.settimeout(SILENCE_SECONDS)
    taken = b""
    try:
        while len(taken) < ENOUGH_BYTES and (more := response.raw.read1(16 * 1024, decode_content=True)):
            taken += more
    except Exception as error:  # noqa: BLE001 - the silence after the last event, however the library calls it
        if "timed out" not in str(error).lower():
            raise
    response._content = taken[: taken.rfind(b"\n\n") + 2]
    response._content_consumed = True
    response.close()
    return response


# What a schema cannot say: a request can fit it and be refused for this. The words are those of the refusal.
BEYOND_SCHEMAS = (
    "slug needs repo",
    "is not in this list any more",
    "has passed; leave it out",
    "level: ",
    "a brief has at most",
    "data takes more than",
    # JSON Schema calls 3.0 an integer.
    "invalid type: floating point",
    # Which words a complete needs hangs on the todo's stage.
    "the todo is at review",
    "review is for a todo",
    "changes are requested without",
    "say in reason why",
)


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Whether this is a failure; a refusal of what only looks valid is none."""
    if failure.code != "ST202" or response is None:
        return True
    return not any(words in response.text for words in BEYOND_SCHEMAS)


@schemathesis.hook
def before_call(context, case, kwargs):
    kwargs["hooks"] = {"response": take_what_comes}
