"""A device that stays connected while its credential is replaced: stock paho-mqtt and PyJWT, MQTT 3.1.1 or 5.

    renew.py IDENTITY_FOLDER [--life SECONDS] [--version 3.1.1|5] [--renewals N] [--clockless] [--never]

It publishes a count to devices/NAME/events/count ten times a second. In time it signs a new JWT and publishes it,
at QoS 1, to $drawbridge/auth; what became of it comes on $drawbridge/auth/result. The connection, its subscriptions
and what is under way go on. With --clockless the device does not know the time (`clock` of its record is `none`): a
nonce of the server stands for it, over HTTPS for the first JWT, on $drawbridge/auth/nonce for each that renews. With
--never it does not renew, and is cut off when its JWT ends.
"""

import argparse
import json
import pathlib
import queue
import secrets
import ssl
import sys
import threading
import time
import urllib.request

import jwt
import paho.mqtt.client as mqtt

arguments = argparse.ArgumentParser()
arguments.add_argument("folder", type=pathlib.Path)
arguments.add_argument("--life", type=int, default=3600, help="of each JWT, in seconds")
arguments.add_argument("--version", choices=["3.1.1", "5"], default="3.1.1")
arguments.add_argument("--renewals", type=int, default=0, help="end after so many; 0: never")
arguments.add_argument("--clockless", action="store_true", help="sign with nonces of the server instead of the time")
arguments.add_argument("--never", action="store_true", help="do not renew")
options = arguments.parse_args()

device = json.loads((options.folder / "device.json").read_text())
key = (options.folder / "key.pem").read_text()
name = device["device"]
results, nonces, ended = queue.Queue(), queue.Queue(), threading.Event()


def new_jwt(nonce):
    now = 0 if options.clockless else int(time.time())
    claims = {"sub": name, "aud": device["bridge_audience"], "iat": now, "exp": now + options.life}
    # Good with a clock, too: whoever stole it could use it for the 60 s of its nonce, and once.
    if nonce:
        claims.update(nonce=nonce, jti=secrets.token_urlsafe(16))
    return jwt.encode(claims, key, algorithm="ES256")


def nonce_over_https():
    context = ssl.create_default_context(cafile=str(options.folder / "ca.pem"))
    registry = "" if device["registry"] == "default" else "/r/" + device["registry"]
    url = f"https://{device['https']}{registry}/oauth/challenge"
    with urllib.request.urlopen(url, data=b"", context=context, timeout=10) as answer:
        return json.load(answer)["nonce"]


def on_connect(client, userdata, flags, reason, properties):
    if reason.is_failure:
        sys.exit(f"refused: {reason}")
    client.subscribe("$drawbridge/auth/result", 1)


def on_message(client, userdata, message):
    if message.topic == "$drawbridge/auth/result":
        results.put(json.loads(message.payload))
    elif message.topic == "$drawbridge/auth/nonce":
        nonces.put(message.payload.decode())


client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2,
    client_id=name,
    protocol=mqtt.MQTTv5 if options.version == "5" else mqtt.MQTTv311,
)
client.username_pw_set("unused", new_jwt(nonce_over_https() if options.clockless else None))
client.tls_set(str(options.folder / "ca.pem"), tls_version=ssl.PROTOCOL_TLS_CLIENT)
client.on_connect, client.on_message = on_connect, on_message
client.on_disconnect = lambda *_: ended.set()
listening = threading.Event()
client.on_subscribe = lambda *_: listening.set()
host, port = device["mqtts"].rsplit(":", 1)
began = time.monotonic()
client.connect(host, int(port))
client.loop_start()
if not listening.wait(10):
    sys.exit("no connection within 10 s")
own_port = client.socket().getsockname()[1]
print("connected", flush=True)

count = renewed = 0
renew_at = time.monotonic() + 0.6 * options.life
waiting = []  # one at a time: the server answers each
while not ended.is_set() and (options.renewals == 0 or renewed < options.renewals):
    count += 1
    client.publish(f"devices/{name}/events/count", str(count), qos=1)
    if not options.never and time.monotonic() >= renew_at and not waiting:
        nonce = None
        if options.clockless:
            while not nonces.empty():
                nonces.get()  # of the last renewal: it may be over
            client.subscribe("$drawbridge/auth/nonce", 0)  # each subscription brings one
            nonce = nonces.get(timeout=5)
        waiting.append(client.publish("$drawbridge/auth", new_jwt(nonce), qos=1))
    try:
        result = results.get(timeout=0.1)
    except queue.Empty:
        continue
    waiting.clear()
    if result["ok"]:
        renewed += 1
        renew_at = time.monotonic() + 0.6 * options.life
        print(f"renewed, good for {result['expires_in']} s", flush=True)
    else:  # the old one is good still: try again in a moment
        renew_at = time.monotonic() + 1
        print(f"not renewed: {result['error']}", flush=True)

if ended.is_set():
    print(f"cut off after {time.monotonic() - began:.0f} s", flush=True)
    sys.exit(0 if options.never else 1)
same = "the same" if client.socket().getsockname()[1] == own_port else "another"
last = client.publish(f"devices/{name}/events/count", "end", qos=1)
last.wait_for_publish(10)
client.on_disconnect = None
client.disconnect()
print(f"{count} published, {renewed} renewals, {same} connection")
