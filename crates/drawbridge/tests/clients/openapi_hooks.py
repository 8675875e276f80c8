"""For schemathesis: the media types of Drawbridge that it does not know, and a stricter reading of the document."""

import schemathesis

LINES = ("application/x-ndjson", "application/jsonl", "application/jsonlines")


def as_bytes(value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@schemathesis.serializer(*LINES, "text/toml", "application/ace+cbor")
def text(ctx, value):
    """A body that is text: generated as text, sent as it is."""
    return as_bytes(value)


@schemathesis.deserializer("application/ace+cbor")
def read_bytes(ctx, response):
    return response.content.decode("latin-1")


@schemathesis.deserializer("application/x-ndjson", "text/toml", "application/token-introspection+jwt")
def read(ctx, response):
    return response.content.decode()
