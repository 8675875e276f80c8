"""Stock paho-mqtt: sessions that are kept, QoS 2, wills, retained messages, and all that MQTT 5 adds to a message.

Arguments: host port ca version(3.1.1|5) principal jwt. The principal may everything below `lab`.
"""

import queue
import ssl
import sys
import time

import paho.mqtt
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

host, port, ca, version, principal, jwt = sys.argv[1:]
v5 = version == "5"
print("paho-mqtt", paho.mqtt.__version__, "MQTT", version)
passed = 0


def check(what, found, wanted=True):
    global passed
    if found != wanted:
        sys.exit(f"failed: {what}: {found!r}, wanted {wanted!r}")
    passed += 1


def properties(packet, **values):
    all_of_them = Properties(packet)
    for name, value in values.items():
        setattr(all_of_them, name, value)
    return all_of_them


class Peer:
    """Connected when made. `stay`: its session outlives the connection."""

    def __init__(self, name, stay=False, will=None, will_delay=None, **connect):
        self.messages, self.subacks = queue.Queue(), queue.Queue()
        self.unsubacks, connected = queue.Queue(), queue.Queue()
        old = {} if v5 else {"clean_session": not stay}
        c = self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=f"{principal}:{name}",
            protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311, **old,
        )
        c.username_pw_set("unused", jwt)
        c.tls_set(ca, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        if will:
            delay = {} if will_delay is None else {"properties": properties(PacketTypes.WILLMESSAGE, WillDelayInterval=will_delay)}
            c.will_set(*will, **delay)
        c.on_connect = lambda c, u, flags, reason, p: connected.put((flags, reason))
        c.on_subscribe = lambda c, u, mid, reasons, p: self.subacks.put(reasons)
        c.on_unsubscribe = lambda c, u, mid, reasons, p: self.unsubacks.put(reasons)
        c.on_message = lambda c, u, m: self.messages.put(m)
        c.reconnect_delay_set(600, 600)
        if v5:
            values = {"SessionExpiryInterval": 600} if stay else {}
            c.connect(host, int(port), 30, clean_start=not stay, properties=properties(PacketTypes.CONNECT, **values, **connect))
        else:
            c.connect(host, int(port), 30)
        c.loop_start()
        flags, reason = connected.get(timeout=10)
        if reason.is_failure:
            sys.exit(f"{name} is not let in: {reason}")
        self.present = flags.session_present

    def subscribe(self, topic, qos=1, identifier=None, **options):
        if v5:
            p = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=identifier) if identifier else None
            self.client.subscribe(topic, options=SubscribeOptions(qos=qos, **options), properties=p)
        else:
            self.client.subscribe(topic, qos)
        granted = self.subacks.get(timeout=10)[0]
        check(f"{topic} is granted", granted.value, qos)

    def publish(self, topic, payload, qos=1, retain=False, **values):
        p = properties(PacketTypes.PUBLISH, **values) if values else None
        info = self.client.publish(topic, payload, qos, retain, properties=p)
        info.wait_for_publish(10)
        check(f"{topic} is acknowledged", info.is_published())

    def next(self, limit=10):
        return self.messages.get(timeout=limit)

    def texts(self, count):
        return [self.next().payload.decode() for _ in range(count)]

    def nothing(self, seconds=0.5):
        try:
            return self.messages.get(timeout=seconds).payload
        except queue.Empty:
            return None

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self):
        """The connection ends without DISCONNECT, and nothing tries again."""
        self.client.loop_stop()
        self.client.socket().close()


say = Peer("say")


def a_session_is_kept():
    peer = Peer("kept", stay=True)
    check("no session yet", peer.present, False)
    peer.subscribe("lab/kept/#", 2)
    peer.vanish()
    wanted = [str(n) for n in range(20)]
    for n in wanted:
        # Order is promised for each QoS alone.
        say.publish("lab/kept/t", n, qos=1 if int(n) < 10 else 2)
    peer = Peer("kept", stay=True)
    check("the session is present", peer.present)
    check("all that was said meanwhile, in order, once", peer.texts(20), wanted)
    peer.leave()
    say.publish("lab/kept/t", "after a good-bye")
    peer = Peer("kept", stay=True)
    check("also after DISCONNECT", (peer.present, peer.texts(1)), (True, ["after a good-bye"]))
    check("nothing twice", peer.nothing(), None)
    peer.leave()
    peer = Peer("kept")
    check("a clean start has no session", peer.present, False)
    peer.leave()
    peer = Peer("kept", stay=True)
    check("and has ended the one before", peer.present, False)
    peer.leave()


def qos_2_both_ways():
    peer = Peer("exactly")
    peer.subscribe("lab/exactly", 2)
    infos = [say.client.publish("lab/exactly", str(n), 2) for n in range(500)]
    for info in infos:
        info.wait_for_publish(20)
    check("500 messages come once and in order", peer.texts(500), [str(n) for n in range(500)])
    check("and no more", peer.nothing(), None)
    peer.leave()


def wills():
    watch = Peer("watch")
    watch.subscribe("lab/will/#")
    Peer("w1", will=("lab/will/1", b"gone", 1, False)).vanish()
    check("a will", watch.next().payload, b"gone")
    Peer("w2", will=("lab/will/2", b"gone", 1, False)).leave()
    check("no will after DISCONNECT", watch.nothing(), None)
    if v5:
        Peer("w3", stay=True, will=("lab/will/3", b"late", 1, False), will_delay=2).vanish()
        back = Peer("w3", stay=True)
        check("who is back before its will is said", (back.present, watch.nothing(3)), (True, None))
        back.leave()
        Peer("w4", stay=True, will=("lab/will/4", b"late", 1, False), will_delay=1).vanish()
        check("a will that was delayed", watch.next().payload, b"late")
    watch.leave()


def retained_messages():
    say.publish("lab/last", "old", retain=True)
    say.publish("lab/last", "new", retain=True)
    peer = Peer("retained")
    peer.subscribe("lab/last")
    message = peer.next()
    check("the last word", (message.payload, message.retain), (b"new", True))
    if v5:
        peer.subscribe("lab/last", retainHandling=1)
        check("not for a subscription that is there", peer.nothing(), None)
        peer.subscribe("lab/+", retainHandling=2)
        check("not when it is not wanted", peer.nothing(), None)
        peer.leave()
        peer = Peer("retained")
        peer.subscribe("lab/last", retainHandling=1)
        check("for one that is new", peer.next().payload, b"new")
        peer.subscribe("lab/last", retainHandling=2, retainAsPublished=True)
        say.publish("lab/last", "live", retain=True)
        message = peer.next()
        check("the flag as it was published", (message.payload, message.retain), (b"live", True))
    say.publish("lab/last", "", retain=True)
    peer.leave()
    peer = Peer("retained")
    peer.subscribe("lab/last")
    check("cleared", peer.nothing(), None)
    peer.leave()


def what_mqtt_5_adds():
    service, client = Peer("service"), Peer("client")
    service.subscribe("lab/ask")
    client.subscribe("lab/answer", noLocal=True)
    pairs = [("a", "1"), ("b", "2"), ("a", "3")]
    client.publish(
        "lab/ask", "?", ResponseTopic="lab/answer", CorrelationData=b"\x00\xff", UserProperty=pairs,
        ContentType="text/plain", PayloadFormatIndicator=1,
    )
    p = service.next().properties
    asked = (p.ResponseTopic, p.CorrelationData, p.UserProperty, p.ContentType, p.PayloadFormatIndicator)
    check("a request", asked, ("lab/answer", b"\x00\xff", pairs, "text/plain", 1))
    service.publish(p.ResponseTopic, "!", CorrelationData=p.CorrelationData)
    answer = client.next()
    check("its response", (answer.payload, answer.properties.CorrelationData), (b"!", b"\x00\xff"))
    client.publish("lab/answer", "mine")
    check("not what it says itself", client.nothing(), None)

    both = Peer("both")
    both.subscribe("lab/id/#", identifier=7)
    both.subscribe("lab/id/+", identifier=268_435_455)
    say.publish("lab/id/x", "x")
    identifiers = []
    while len(identifiers) < 2:
        identifiers += both.next().properties.SubscriptionIdentifier
    check("the identifiers of both subscriptions", sorted(identifiers), [7, 268_435_455])

    away = Peer("expiry", stay=True)
    away.subscribe("lab/expiry")
    away.leave()
    say.publish("lab/expiry", "short", MessageExpiryInterval=1)
    say.publish("lab/expiry", "long", MessageExpiryInterval=600)
    time.sleep(2.1)
    away = Peer("expiry", stay=True)
    message = away.next()
    left = message.properties.MessageExpiryInterval
    check("the one that has not expired, and what it has left", (message.payload, 500 < left < 600), (b"long", True))

    for topic, text in [("lab/id/alias", "1"), ("", "2"), ("", "3")]:
        say.publish(topic, text, TopicAlias=3)
    got = [both.next() for _ in range(3)]
    check("an alias for a topic", [(m.topic, m.payload) for m in got], [("lab/id/alias", text) for text in (b"1", b"2", b"3")])
    small = Peer("small", MaximumPacketSize=200, ReceiveMaximum=2)
    small.subscribe("lab/size")
    say.publish("lab/size", "x" * 300)
    for n in range(10):
        say.publish("lab/size", str(n))
    check("no packet that is too large for it", small.texts(10), [str(n) for n in range(10)])
    for peer in (service, client, both, away, small):
        peer.leave()


def shared_subscriptions():
    members = [Peer(f"member-{n}") for n in range(3)]
    for member in members:
        member.subscribe("$share/team/lab/jobs/#", 2)
    wanted = sorted(str(n) for n in range(60))
    for n in wanted:
        say.publish("lab/jobs/x", n, qos=1 + int(n) % 2)
    found = []
    while len(found) < 60:
        for member in members:
            while not member.messages.empty():
                found.append(member.next().payload.decode())
        time.sleep(0.02)
    check("each message went to one member", sorted(found), wanted)
    check("and to no second", [member.nothing(0.3) for member in members], [None] * 3)
    for member in members:
        member.leave()


a_session_is_kept()
qos_2_both_ways()
wills()
retained_messages()
if v5:
    what_mqtt_5_adds()
shared_subscriptions()
print(passed, "checks passed")
