"""Writes CONNECT, SUBSCRIBE and three PUBLISH in one TLS record and only then reads, as Google's
samples do. Arguments: host port ca device jwt
"""

import socket
import ssl
import struct
import sys

host, port, ca, device, jwt = sys.argv[1:]


def text(s):
    data = s.encode()
    return struct.pack(">H", len(data)) + data


def packet(first, body):
    n, length = len(body), b""
    while True:
        n, low = divmod(n, 128)
        length += bytes([low | (128 if n else 0)])
        if not n:
            return bytes([first]) + length + body


connect = packet(0x10, text("MQTT") + b"\x04\xc2\x00\x3c" + text(device) + text("") + text(jwt))
subscribe = packet(0x82, b"\x00\x01" + text(f"devices/{device}/commands/#") + b"\x01")
publishes = b"".join(
    packet(0x32, text(f"devices/{device}/events/x") + struct.pack(">H", 10 + i) + str(i).encode()) for i in range(3)
)
tls = ssl.create_default_context(cafile=ca)
with socket.create_connection((host, int(port)), 10) as raw, tls.wrap_socket(raw, server_hostname=host) as s:
    s.settimeout(10)
    s.sendall(connect + subscribe + publishes)
    wanted, got = 4 + 5 + 3 * 4, b""
    while len(got) < wanted:
        chunk = s.recv(4096)
        if not chunk:
            sys.exit(f"closed after {got.hex()}")
        got += chunk
if got[:4] != b"\x20\x02\x00\x00" or got[4:6] != b"\x90\x03":
    sys.exit(f"unexpected answers {got.hex()}")
pubacks = sum(got[9 + 4 * i : 13 + 4 * i] == b"\x40\x02" + struct.pack(">H", 10 + i) for i in range(3))
print(f"connack {got[3]}, suback {got[8]}, pubacks {pubacks}")
