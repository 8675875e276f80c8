// MQTT.js over WebSocket (wss, path /mqtt): who is let in, what arrives, what is refused. Argument: a JSON file.
import { readFileSync } from "node:fs";

import mqtt from "mqtt";

const world = JSON.parse(readFileSync(process.argv[2], "utf8"));
const version = JSON.parse(readFileSync(`${world.packages}/node_modules/mqtt/package.json`, "utf8")).version;
console.log("node", process.version, "MQTT.js", version);

let passed = 0;
function check(what, found, wanted = true) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    console.error(`failed: ${what}: ${JSON.stringify(found)}, wanted ${JSON.stringify(wanted)}`);
    process.exit(1);
  }
  passed += 1;
}
const limit = setTimeout(() => check("all of it within 60 s", false), 60_000);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Connects; the answer is the client, or the error with which it was turned away. */
function enter(who, protocolVersion, more = {}) {
  const got = [];
  const client = mqtt.connect(more.url ?? world.url, {
    protocolVersion, clientId: `${who.name}:web-${protocolVersion}`, username: "unused", password: who.jwt,
    clean: true, reconnectPeriod: 0, connectTimeout: 10_000, keepalive: 30, ...more,
  });
  client.got = got;
  client.on("message", (topic, payload, packet) => got.push({ topic, payload, packet }));
  client.take = async (count) => {
    for (let waited = 0; got.length < count && waited < 20_000; waited += 10) await sleep(10);
    return got.splice(0, got.length);
  };
  return new Promise((resolve) => {
    client.once("connect", (connack) => resolve({ client, connack }));
    client.once("error", (error) => resolve({ client, error }));
    client.once("close", () => resolve({ client, error: new Error("closed") }));
  });
}

for (const protocolVersion of [4, 5]) {
  const v5 = protocolVersion === 5;
  const refused = v5 ? 0x87 : 5;

  const viewer = (await enter(world.viewer, protocolVersion)).client;
  const { client: sensor, connack } = await enter(world.sensor, protocolVersion);
  check("let in", (v5 ? connack.reasonCode : connack.returnCode) ?? 0, 0);
  check("no session was kept", connack.sessionPresent, false);
  const granted = await viewer.subscribeAsync("devices/#", { qos: 2 });
  check("granted at QoS 2", granted[0].qos, 2);

  const topic = `devices/${world.sensor.name}/events/temp`;
  for (const qos of [0, 1, 2]) {
    await sensor.publishAsync(topic, `at QoS ${qos}`, { qos });
    const [message] = await viewer.take(1);
    check(`topic at QoS ${qos}`, message.topic, topic);
    check(`payload at QoS ${qos}`, message.payload.toString(), `at QoS ${qos}`);
    check(`QoS ${qos}`, message.packet.qos, qos);
  }

  // More than one frame on the way, and many packets in one.
  const large = Buffer.alloc(200_000, 7);
  await sensor.publishAsync(topic, large, { qos: 1 });
  check("200 kB arrive whole", (await viewer.take(1))[0].payload.equals(large));
  const numbers = Array.from({ length: 500 }, (_, n) => String(n));
  await Promise.all(numbers.map((n) => sensor.publishAsync(topic, n, { qos: 1 })));
  check("500 messages in order", (await viewer.take(500)).map(({ payload }) => payload.toString()), numbers);

  // In 3.1.1 the connection is closed, and MQTT.js would keep the message for the next one.
  const closed = new Promise((resolve) => sensor.once("close", () => resolve("closed")));
  const answered = sensor.publishAsync("devices/other/events", "not mine", { qos: 1 }).then(
    () => "taken",
    (error) => error.code ?? "closed",
  );
  const denied = await Promise.race([closed, answered]);
  check("another device's topic is refused", denied, v5 ? refused : "closed");
  await sleep(50);
  check("nobody hears of it", viewer.got.length, 0);

  const forged = await enter({ name: world.sensor.name, jwt: world.forged }, protocolVersion);
  check("a token of another key is refused", forged.error?.code, refused);
  forged.client.end(true);

  await viewer.endAsync();
  sensor.end(true);
}

const elsewhere = await enter(world.sensor, 5, { url: world.url.replace("/mqtt", "/elsewhere") });
check("another path is no way in", elsewhere.connack === undefined);
elsewhere.client.end(true);

clearTimeout(limit);
console.log(`${passed} checks passed`);
process.exit(0);
