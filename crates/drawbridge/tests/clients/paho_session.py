"""A session of stock paho-mqtt: publish, subscribe, retained, will, a command, refusals.

Arguments: host port ca version(3.1.1|5) device device_jwt viewer viewer_jwt transport(tcp|websockets)
"""

import queue
import ssl
import sys
import time

import paho.mqtt
import paho.mqtt.client as mqtt

host, port, ca, version, device, device_jwt, viewer, viewer_jwt, transport = sys.argv[1:]
v5 = version == "5"
protocol = mqtt.MQTTv5 if v5 else mqtt.MQTTv311
print("paho-mqtt", paho.mqtt.__version__, "MQTT", version, "over", transport)
passed = 0


def check(what, holds):
    global passed
    if not holds:
        sys.exit(f"failed: {what}")
    passed += 1


class Peer:
    def __init__(self, name, jwt, will=None, keepalive=30):
        self.connected, self.acks, self.subacks = queue.Queue(), queue.Queue(), queue.Queue()
        self.messages, self.gone = queue.Queue(), queue.Queue()
        c = self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, transport=transport)
        if transport == "websockets":
            c.ws_set_options(path="/mqtt")
        c.username_pw_set("unused", jwt)
        c.tls_set(ca, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        if will:
            c.will_set(*will)
        c.on_connect = lambda c, u, f, reason, p: self.connected.put(reason)
        c.on_publish = lambda c, u, mid, reason, p: self.acks.put((mid, reason))
        c.on_subscribe = lambda c, u, mid, reasons, p: self.subacks.put(reasons)
        c.on_message = lambda c, u, m: self.messages.put((m.topic, m.payload, m.retain))
        c.on_disconnect = lambda c, u, f, reason, p: self.gone.put(reason)
        c.reconnect_delay_set(60, 60)
        c.connect(host, int(port), keepalive)
        c.loop_start()

    def up(self):
        reason = self.connected.get(timeout=10)
        return not reason.is_failure

    def publish(self, topic, payload, qos=1, retain=False):
        info = self.client.publish(topic, payload, qos, retain)
        info.wait_for_publish(10)
        return info.is_published()

    def subscribe(self, topic, qos=1):
        self.client.subscribe(topic, qos)
        return self.subacks.get(timeout=10)[0]

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


watch = Peer(viewer, viewer_jwt)
check("the application is admitted", watch.up())
check("its subscription is granted at QoS 1", watch.subscribe("devices/#").value == 1)

lamp = Peer(device, device_jwt, will=(f"devices/{device}/state", b"gone", 1, False))
check("the device is admitted", lamp.up())
check("its publish is acknowledged", lamp.publish(f"devices/{device}/events/t", b"21"))
check("and arrives", watch.messages.get(timeout=10) == (f"devices/{device}/events/t", b"21", False))

refused = lamp.subscribe("devices/#")
check("a filter wider than its rights is refused", refused.is_failure)

check("a retained message is kept", lamp.publish(f"devices/{device}/events/kept", version, retain=True))
watch.messages.get(timeout=10)
late = Peer(viewer, viewer_jwt)
late.up()
late.subscribe(f"devices/{device}/events/kept")
check("and sent to who subscribes later", late.messages.get(timeout=10) == (f"devices/{device}/events/kept", version.encode(), True))

late.subscribe("devices/+/state")
lamp.client._sock_close() if hasattr(lamp.client, "_sock_close") else lamp.client.socket().close()
lamp.client.loop_stop()
deadline = time.time() + 10
while True:
    topic, payload, _ = late.messages.get(timeout=max(0.1, deadline - time.time()))
    if topic == f"devices/{device}/state":
        break
check("the will is published when the device is gone", payload == b"gone")
late.close()
watch.client.loop_stop()
print(passed, "checks passed")
