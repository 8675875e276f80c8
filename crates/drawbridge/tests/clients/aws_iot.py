"""The device SDK of AWS IoT, with the ports and the ALPN names that it chooses by itself: connects, subscribes, publishes at
QoS 1, hears a command, leaves.

aws_iot.py 3.1.1|5 WAY CA CERTIFICATE KEY CLIENT_ID JWT

WAY: `mtls` (443, ALPN x-amzn-mqtt-ca), `mtls-8883` (no ALPN), `authorizer` (443, ALPN mqtt, JWT as the password),
`websocket` (443, no ALPN, JWT as the password). The host is `localhost`.
"""

import sys
from concurrent.futures import Future

from awscrt import mqtt, mqtt5
from awsiot import mqtt5_client_builder, mqtt_connection_builder

WAIT_S = 30


def build(builder, way, ca, certificate, key, jwt, **more):
    more |= {"endpoint": "localhost", "ca_filepath": ca}
    if way.startswith("mtls"):
        if way == "mtls-8883":
            more["port"] = 8883
        return builder.mtls_from_path(cert_filepath=certificate, pri_key_filepath=key, **more)
    custom = {"auth_username": "unused", "auth_authorizer_name": "own", "auth_password": jwt}
    if way == "authorizer":
        return builder.direct_with_custom_authorizer(**custom, **more)
    assert way == "websocket", way
    return builder.websockets_with_custom_authorizer(**custom, **more)


def mqtt311(way, ca, certificate, key, client_id, jwt, topics):
    heard = Future()
    options = {"client_id": client_id, "clean_session": True, "keep_alive_secs": 30}
    connection = build(mqtt_connection_builder, way, ca, certificate, key, jwt, **options)
    connection.connect().result(WAIT_S)
    subscribed, _ = connection.subscribe(
        topics["commands"], mqtt.QoS.AT_LEAST_ONCE, lambda topic, payload, **_: heard.done() or heard.set_result(payload))
    assert subscribed.result(WAIT_S)["qos"] == mqtt.QoS.AT_LEAST_ONCE
    published, _ = connection.publish(topics["events"], "1", mqtt.QoS.AT_LEAST_ONCE)
    published.result(WAIT_S)
    assert heard.result(WAIT_S) == b"on"
    connection.disconnect().result(WAIT_S)


def mqtt_5(way, ca, certificate, key, client_id, jwt, topics):
    connected, heard, stopped = Future(), Future(), Future()

    def failed(data):
        if not connected.done():
            connected.set_exception(RuntimeError(f"{data.exception} {data.connack_packet}"))

    client = build(
        mqtt5_client_builder, way, ca, certificate, key, jwt, client_id=client_id,
        on_lifecycle_connection_success=connected.set_result,
        on_lifecycle_connection_failure=failed,
        on_lifecycle_stopped=stopped.set_result,
        on_publish_received=lambda data: heard.done() or heard.set_result(data.publish_packet.payload),
    )
    client.start()
    connected.result(WAIT_S)
    wanted = mqtt5.Subscription(topics["commands"], mqtt5.QoS.AT_LEAST_ONCE)
    codes = client.subscribe(mqtt5.SubscribePacket([wanted])).result(WAIT_S).reason_codes
    assert codes == [mqtt5.SubackReasonCode.GRANTED_QOS_1], codes
    packet = mqtt5.PublishPacket(topic=topics["events"], payload="1", qos=mqtt5.QoS.AT_LEAST_ONCE)
    puback = client.publish(packet).result(WAIT_S).puback
    assert puback.reason_code == mqtt5.PubackReasonCode.SUCCESS, puback
    assert heard.result(WAIT_S) == b"on"
    client.stop()
    stopped.result(WAIT_S)


def main():
    version, way, ca, certificate, key, client_id, jwt = sys.argv[1:]
    topics = {"events": f"devices/{client_id}/events/x", "commands": f"devices/{client_id}/commands/#"}
    {"3.1.1": mqtt311, "5": mqtt_5}[version](way, ca, certificate, key, client_id, jwt, topics)
    print(f"MQTT {version} by {way}: subscribed, published, heard a command, left")


if __name__ == "__main__":
    main()
