"""One client of stock paho-mqtt that lives through kills of the server and writes down what it saw.

Arguments: role(publish|subscribe) folder endpoints.json ca version(3.1.1|5) name jwt qos(of subscribe) rate(of publish)

In FOLDER it writes NAME.log, a line each:
    C 0|1            let in; whether its session was present      X REASON   not let in
    S                subscribed                                   A TOPIC N  acknowledged: PUBACK or PUBCOMP came
    R TOPIC N WHY    acknowledged as refused                      M TOPIC N  a message came
    E                all that was to do is done
and reads: `stop` (publishers come to an end), `away-NAME` (it disconnects as long as that is there).
"""

import json
import os
import sys
import time

import paho.mqtt
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

role, folder, endpoints, ca, version, name, jwt, more = sys.argv[1:]
v5 = version == "5"
print("paho-mqtt", paho.mqtt.__version__, "MQTT", version, role)
out = open(f"{folder}/{name}.log", "w")
up = False
subscribed = False
waiting = {}  # by packet identifier: what is not acknowledged yet
ended = set()  # topics whose last message came


def on_connect(client, userdata, flags, reason, properties):
    global up
    if reason.is_failure:
        out.write(f"X {reason}\n")
        return
    out.write(f"C {int(flags.session_present)}\n")
    up = True


def on_publish(client, userdata, mid, reason, properties):
    topic, payload = waiting.pop(mid)
    # 0x92 for a PUBREL that is said again: the server had it before. "Not an error during recovery" (MQTT 5.0 4.13.1).
    if v5 and reason.is_failure and reason.value != 0x92:
        out.write(f"R {topic} {payload} {reason}\n")
    else:
        out.write(f"A {topic} {payload}\n")


def on_subscribe(client, userdata, mid, reasons, properties):
    global subscribed
    assert reasons[0].value == int(more), reasons
    subscribed = True
    out.write("S\n")


def on_message(client, userdata, message):
    text = message.payload.rstrip(b".").decode()
    out.write(f"M {message.topic} {text}\n")
    if text == "end":
        ended.add(message.topic)


extra = {} if v5 else {"clean_session": False}
client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311, **extra
)
client.username_pw_set("unused", jwt)
client.tls_set(ca)
client.max_inflight_messages_set(500)
client.on_connect, client.on_publish = on_connect, on_publish
client.on_subscribe, client.on_message = on_subscribe, on_message


known = None


def connect():
    global known
    with open(endpoints) as file:
        text = file.read()
    if role == "publish" and text == known:
        # paho 2.2.0 forgets that PUBREC came when a connect fails, and says PUBLISH anew, against MQTT 4.3.3: its
        # `_messages_reconnect_reset_out` makes "resend PUBREL" into "publish" when it runs twice. So it may only try
        # once the next server is there.
        raise OSError("no other server yet")
    host, port = json.loads(text)["mqtts"].rsplit(":", 1)
    known = text
    if v5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        client.connect(host, int(port), 60, clean_start=False, properties=properties)
    else:
        client.connect(host, int(port), 60)


def until_down(limit):
    """Serves the connection until it is closed."""
    global up
    deadline = time.monotonic() + limit
    while client.loop(0.02) == mqtt.MQTT_ERR_SUCCESS and time.monotonic() < deadline:
        pass
    up = False


def send(topic, payload, qos, retain=False):
    info = client.publish(topic, payload.ljust(100, ".") if payload != "end" else payload, qos, retain)
    waiting[info.mid] = (topic, payload)


class Publisher:
    exactly, least, state = (f"devices/{name}/events/{tail}" for tail in ("exactly", "least", "state"))
    begun = sent = 0
    at_end = False

    def work(self):
        if self.at_end:
            return not waiting
        if os.path.exists(f"{folder}/stop"):
            send(self.exactly, "end", 2)
            send(self.least, "end", 1)
            self.at_end = True
            return False
        # What was missed while the server was away is not made up for.
        now = time.monotonic()
        if now - self.begun > 1:
            self.begun, self.sent = now, 0
        while self.sent < (now - self.begun) * int(more) and len(waiting) < 400:
            self.number = getattr(self, "number", 0) + 1
            self.sent += 1
            if self.number % 50 == 0:
                send(self.state, str(self.number), 1, retain=True)
            elif self.number % 5 == 0:
                send(self.exactly, str(self.number), 2)
            else:
                send(self.least, str(self.number), 1)
        return False


class Subscriber:
    asked = False

    def work(self):
        if not subscribed and not self.asked:
            client.subscribe("devices/+/events/#", int(more))
            self.asked = True
        return len(ended) == 4


worker = Publisher() if role == "publish" else Subscriber()
while True:
    if os.path.exists(f"{folder}/away-{name}"):
        if up:
            client.disconnect()
            until_down(5)
        time.sleep(0.02)
        continue
    if not up:
        try:
            connect()
            deadline = time.monotonic() + 5
            while not up and client.loop(0.02) == mqtt.MQTT_ERR_SUCCESS and time.monotonic() < deadline:
                pass
        except (OSError, ValueError):
            pass
        if not up:
            time.sleep(0.05)
            out.flush()
            continue
    if client.loop(0.005) != mqtt.MQTT_ERR_SUCCESS:
        up = False
    elif worker.work():
        break
    out.flush()
client.disconnect()
until_down(5)
out.write("E\n")
out.close()
