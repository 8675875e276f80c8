"""The device SDK of AWS IoT with a client certificate: connects, publishes, leaves.

aws_iot.py 3.1.1|5 HOST PORT ALPN CA CERTIFICATE KEY CLIENT_ID; ALPN "" for none. The SDK calls the host by `localhost`.
"""

import sys
from concurrent.futures import Future

from awscrt import io, mqtt, mqtt5

WAIT_S = 20


def tls(alpn, ca, certificate, key):
    options = io.TlsContextOptions.create_client_with_mtls_from_path(certificate, key)
    options.override_default_trust_store_from_path(ca_dirpath=None, ca_filepath=ca)
    if alpn:
        options.alpn_list = [alpn]
    return io.ClientTlsContext(options)


def bootstrap():
    group = io.EventLoopGroup(1)
    return io.ClientBootstrap(group, io.DefaultHostResolver(group))


def mqtt311(port, context, client_id, topic):
    connection = mqtt.Connection(
        client=mqtt.Client(bootstrap(), context), host_name="localhost", port=port, client_id=client_id,
        keep_alive_secs=30, ping_timeout_ms=5000, clean_session=True,
    )
    connection.connect().result(WAIT_S)
    published, _ = connection.publish(topic, "1", mqtt.QoS.AT_LEAST_ONCE)
    published.result(WAIT_S)
    connection.disconnect().result(WAIT_S)


def mqtt_5(port, context, client_id, topic):
    connected, stopped = Future(), Future()

    def fail(data):
        if not connected.done():
            connected.set_exception(RuntimeError(f"{data.exception} {data.connack_packet}"))

    client = mqtt5.Client(mqtt5.ClientOptions(
        host_name="localhost", port=port, bootstrap=bootstrap(), tls_ctx=context,
        connect_options=mqtt5.ConnectPacket(client_id=client_id, keep_alive_interval_sec=30),
        on_lifecycle_event_connection_success_fn=connected.set_result,
        on_lifecycle_event_connection_failure_fn=fail,
        on_lifecycle_event_stopped_fn=stopped.set_result,
    ))
    client.start()
    connected.result(WAIT_S)
    packet = mqtt5.PublishPacket(topic=topic, payload="1", qos=mqtt5.QoS.AT_LEAST_ONCE)
    puback = client.publish(packet).result(WAIT_S).puback
    assert puback.reason_code <= mqtt5.PubackReasonCode.NO_MATCHING_SUBSCRIBERS, puback
    client.stop()
    stopped.result(WAIT_S)


def main():
    version, _host, port, alpn, ca, certificate, key, client_id = sys.argv[1:]
    context = tls(alpn, ca, certificate, key)
    topic = f"devices/{client_id}/events/x"
    {"3.1.1": mqtt311, "5": mqtt_5}[version](int(port), context, client_id, topic)
    print(f"MQTT {version}, ALPN {alpn or 'none'}: published")


if __name__ == "__main__":
    main()
