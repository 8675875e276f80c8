"""Stock paho-mqtt renews its session over `$drawbridge/auth`: short tokens, a new one every 1.4 s, on one connection.
Then it stops, and is cut.

Arguments: host port ca version(3.1.1|5) device_folder viewer_folder renewals life_s
"""

import json
import pathlib
import queue
import ssl
import sys
import time
import uuid

import jwt
import paho.mqtt.client as mqtt

host, port, ca, version, device_folder, viewer_folder, renewals, life_s = sys.argv[1:]
renewals = int(renewals)
protocol = mqtt.MQTTv5 if version == "5" else mqtt.MQTTv311
LIFE_S, EVERY_S, SKEW_S = int(life_s), 1.4, 60


def check(what, holds):
    if not holds:
        sys.exit(f"failed: {what}")


class Peer:
    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.record = json.loads((folder / "device.json").read_text())
        self.key = (folder / "key.pem").read_text()
        self.name = self.record["device"]
        self.connects, self.gone = 0, queue.Queue()
        self.messages, self.results, self.subacks = queue.Queue(), queue.Queue(), queue.Queue()
        up = queue.Queue()
        c = self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=self.name, protocol=protocol)
        c.username_pw_set("unused", self.token())
        c.tls_set(ca, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        c.on_connect = lambda c, u, f, reason, p: up.put(reason)
        c.on_disconnect = lambda c, u, f, reason, p: self.gone.put(time.time())
        c.on_subscribe = lambda c, u, mid, reasons, p: self.subacks.put(reasons)
        c.on_message = self.heard
        c.reconnect_delay_set(60, 60)
        c.connect(host, int(port), 30)
        c.loop_start()
        check("let in", not up.get(timeout=10).is_failure)
        self.port = self.local_port()
        self.subscribe("$drawbridge/auth/result")

    def token(self):
        now = int(time.time())
        self.ends = now + LIFE_S
        # Good for that long from now on: until 60 s after `exp`, as the registry allows.
        claims = {"sub": self.name, "aud": self.record["bridge_audience"], "iat": now - 2 * SKEW_S}
        claims |= {"exp": now + LIFE_S - SKEW_S, "x": uuid.uuid4().hex}
        return jwt.encode(claims, self.key, algorithm="ES256")

    def local_port(self):
        return self.client.socket().getsockname()[1]

    def heard(self, c, u, m):
        (self.results if m.topic == "$drawbridge/auth/result" else self.messages).put(m.payload)

    def subscribe(self, topic):
        self.client.subscribe(topic, 1)
        check(f"subscribed to {topic}", not self.subacks.get(timeout=10)[0].is_failure)

    def renew(self):
        self.client.publish("$drawbridge/auth", self.token(), 1)

    def renewed(self):
        result = json.loads(self.results.get(timeout=10))
        check(f"renewed: {result}", result["ok"] and 1 <= result["expires_in"] <= LIFE_S)
        check("the same port of TCP", self.local_port() == self.port)


lamp, viewer = Peer(device_folder), Peer(viewer_folder)
topic = f"devices/{lamp.name}/events/n"
viewer.subscribe(topic)
sent, done = [], 0
renew_at = time.monotonic() + 1
while done < renewals:
    sent.append(lamp.client.publish(topic, str(len(sent)), 1))
    if time.monotonic() >= renew_at:
        renew_at += EVERY_S
        lamp.renew()
        viewer.renew()
        lamp.renewed()
        viewer.renewed()
        done += 1
    time.sleep(0.01)
for info in sent:
    info.wait_for_publish(10)
numbers = [int(viewer.messages.get(timeout=10)) for _ in sent]
check("sequence numbers without a gap", numbers == list(range(len(sent))))
check("nobody was cut", lamp.gone.empty() and viewer.gone.empty())
print(f"{done} renewals, {len(sent)} messages")
for peer in (lamp, viewer):
    late = peer.gone.get(timeout=LIFE_S + 5) - peer.ends
    check(f"cut {late:.2f} s after the end of its last token", late >= 0)
    peer.client.loop_stop()
check("nothing came twice", viewer.messages.empty())
print("cut after its end")
