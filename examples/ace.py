#!/usr/bin/env python3
"""A device that connects to MQTT 5 by RFC 9431 (`ace`), without a library: what to send, byte by byte.

    ace.py bytes                                     the layouts, with a key and nonces that everybody knows
    ace.py connect HOST:PORT CA CLIENT_ID < ANSWER   connects with what the token endpoint has answered as
                                                     application/ace+json, its symmetric key included

The proof is made over the broker's nonce: Python's ssl gives nobody the exporter value that a proof without that
round trip is over.
"""

import base64
import hashlib
import hmac
import json
import os
import socket
import ssl
import struct
import sys

METHOD = b"\x15" + struct.pack(">H", 3) + b"ace"  # property 21, Authentication Method


def data(value):
    """Property 22, Authentication Data."""
    return b"\x16" + struct.pack(">H", len(value)) + value


def variable(number):
    """A length as MQTT has it: 7 bits in a byte, the lowest first."""
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (128 if number else 0))
        if not number:
            return bytes(out)


def text(value):
    return struct.pack(">H", len(value.encode())) + value.encode()


def with_length(value):
    """Form 1 and 2 begin with it: the token behind its length in 2 bytes."""
    return struct.pack(">H", len(value)) + value


def prove(key, message):
    """HS256 of RFC 9431: the whole MAC, directly over the bytes."""
    return hmac.new(key, message, hashlib.sha256).digest()


def connect(client_id, auth_data):
    properties = METHOD + data(auth_data)
    # MQTT 5, Clean Start and neither user name nor password, 60 s of keep-alive.
    body = text("MQTT") + b"\x05\x02" + struct.pack(">H", 60) + variable(len(properties)) + properties + text(client_id)
    return b"\x10" + variable(len(body)) + body


def auth(reason, auth_data):
    properties = METHOD + data(auth_data)
    body = bytes([reason]) + variable(len(properties)) + properties
    return b"\xf0" + variable(len(body)) + body


def read_packet(stream):
    """Its type, and what stands behind its length."""
    first, length, shift = stream.read(1), 0, 0
    while True:
        byte = stream.read(1)[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return first[0] >> 4, stream.read(length)


def nonce_of(body):
    """The broker's nonce in an AUTH: reason 0x18, then properties."""
    assert body[0] == 0x18, f"AUTH with the reason {body[0]:#04x}"
    at = body.index(b"\x16") if body[2] == 0x16 else 2 + len(METHOD)
    (length,) = struct.unpack(">H", body[at + 1 : at + 3])
    assert length == 8, "the nonce has 8 bytes"
    return body[at + 3 : at + 11]


def run(address, ca, client_id, answer):
    host, port = address.rsplit(":", 1)
    key = answer["cnf"]["jwk"]["k"]
    key = base64.urlsafe_b64decode(key + "=" * (-len(key) % 4))
    context = ssl.create_default_context(cafile=ca)
    with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host) as tls:
        stream = tls.makefile("rb")
        tls.sendall(connect(client_id, with_length(answer["access_token"].encode())))  # form 2
        kind, body = read_packet(stream)
        if kind == 15:
            theirs, ours = nonce_of(body), os.urandom(8)
            tls.sendall(auth(0x18, ours + prove(key, theirs + ours)))  # form 5
            kind, body = read_packet(stream)
        assert kind == 2, f"a packet of type {kind}"
        print(f"CONNACK {body[1]:#04x}")
        tls.sendall(b"\xe0\x00")
        return 0 if body[1] == 0 else 1


def show():
    key, token = bytes([7]) * 32, b"eyJ...token"
    exporter, theirs, ours = bytes(range(32, 64)), bytes(range(8)), bytes(range(8, 16))
    print("key                ", key.hex())
    print("exporter value     ", exporter.hex())
    print("proof over it      ", prove(key, exporter).hex())
    print("form 1             ", with_length(token)[:2].hex(), token.hex(), prove(key, exporter).hex())
    print("form 2             ", with_length(token)[:2].hex(), token.hex())
    print("form 4, the broker ", theirs.hex())
    print("form 5, the client ", ours.hex(), prove(key, theirs + ours).hex())
    print("CONNECT, form 2    ", connect("lamp", with_length(token)).hex())
    print("AUTH, form 5       ", auth(0x18, ours + prove(key, theirs + ours)).hex())


if __name__ == "__main__":
    if sys.argv[1:] == ["bytes"]:
        show()
    elif len(sys.argv) == 5 and sys.argv[1] == "connect":
        sys.exit(run(*sys.argv[2:5], json.JSONDecoder().raw_decode(sys.stdin.read())[0]))
    else:
        sys.exit(__doc__)
