// MQTT.js over TLS: sessions that are kept, QoS 2, wills, retained messages, and what MQTT 5 adds. Argument: a JSON file.
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

for (const protocolVersion of [4, 5]) {
  const v5 = protocolVersion === 5;

  /** A client whose messages gather in `got`; `stay`: its session outlives the connection. */
  async function enter(name, stay = false, more = {}) {
    const got = [];
    const properties = { ...(v5 && stay ? { sessionExpiryInterval: 600 } : {}), ...(v5 ? more.properties : {}) };
    const client = mqtt.connect(world.url, {
      protocolVersion, clientId: `${world.name}:${protocolVersion}-${name}`, username: "unused", password: world.jwt,
      clean: !stay, reconnectPeriod: 0, connectTimeout: 10_000, keepalive: 30, resubscribe: false, ...more, properties,
    });
    client.on("message", (topic, payload, packet) => got.push({ topic, text: payload.toString(), packet }));
    client.got = got;
    client.connack = await new Promise((resolve, reject) => {
      client.once("connect", resolve);
      client.once("error", reject);
    });
    client.texts = async (count) => {
      for (let waited = 0; got.length < count && waited < 20_000; waited += 10) await sleep(10);
      return got.splice(0, got.length).map(({ text }) => text);
    };
    return client;
  }
  const numbers = (count) => Array.from({ length: count }, (_, n) => String(n));
  const say = await enter("say");

  let kept = await enter("kept", true);
  check("no session yet", kept.connack.sessionPresent, false);
  const granted = await kept.subscribeAsync("lab/kept/#", { qos: 2 });
  check("granted at QoS 2", granted[0].qos, 2);
  kept.stream.destroy();
  // Order is promised for each QoS alone.
  for (const n of numbers(20)) await say.publishAsync("lab/kept/t", n, { qos: Number(n) < 10 ? 1 : 2 });
  kept = await enter("kept", true);
  check("the session is present", kept.connack.sessionPresent);
  check("all that was said meanwhile, in order, once", await kept.texts(20), numbers(20));
  await Promise.all(numbers(500).map((n) => say.publishAsync("lab/kept/t", n, { qos: 2 })));
  check("500 messages at QoS 2", await kept.texts(500), numbers(500));
  await kept.endAsync();

  const watch = await enter("watch");
  await watch.subscribeAsync("lab/will/#", { qos: 1 });
  const will = { topic: "lab/will/1", payload: "gone", qos: 2, retain: false };
  (await enter("w1", false, { will })).stream.destroy();
  check("a will", await watch.texts(1), ["gone"]);
  await (await enter("w2", false, { will })).endAsync();
  if (v5) {
    const late = { ...will, payload: "late", properties: { willDelayInterval: 1 } };
    (await enter("w3", true, { will: late })).stream.destroy();
    check("a will that was delayed, and none after DISCONNECT", await watch.texts(1), ["late"]);
  }
  await watch.endAsync();

  await say.publishAsync("lab/last", "kept", { qos: 1, retain: true });
  const last = await enter("last");
  await last.subscribeAsync("lab/last", { qos: 1, ...(v5 ? { rh: 1, rap: true } : {}) });
  check("the retained message", await last.texts(1), ["kept"]);
  if (v5) {
    await last.subscribeAsync("lab/last", { qos: 1, rh: 1, rap: true });
    await say.publishAsync("lab/last", "live", { qos: 1, retain: true });
    for (let waited = 0; last.got.length < 1 && waited < 10_000; waited += 10) await sleep(10);
    check("not a second time, and the flag as published", last.got.map(({ text, packet }) => [text, packet.retain]), [["live", true]]);
  }
  await say.publishAsync("lab/last", "", { qos: 1, retain: true });
  await last.endAsync();

  if (v5) {
    // MQTT.js gives aliases by itself, and resolves those of the server.
    const both = await enter("both", false, { properties: { topicAliasMaximum: 10 } });
    const giver = await enter("giver", false, { autoAssignTopicAlias: true });
    await both.subscribeAsync("lab/long/#", { qos: 1, properties: { subscriptionIdentifier: 7 } });
    const userProperties = { a: ["1", "2"], b: "3" };
    for (const n of numbers(50)) {
      await giver.publishAsync(`lab/long/topic/${Number(n) % 5}`, n, {
        qos: 1,
        properties: { responseTopic: "lab/answer", correlationData: Buffer.from([0, 255]), contentType: "text/plain", messageExpiryInterval: 600, userProperties },
      });
    }
    for (let waited = 0; both.got.length < 50 && waited < 10_000; waited += 10) await sleep(10);
    check("aliases both ways", both.got.map(({ topic, text }) => [topic, text]), numbers(50).map((n) => [`lab/long/topic/${Number(n) % 5}`, n]));
    const { properties } = both.got[49].packet;
    check("what was said of it", [properties.responseTopic, [...properties.correlationData], properties.contentType, { ...properties.userProperties }], ["lab/answer", [0, 255], "text/plain", userProperties]);
    check("the identifier of the subscription", properties.subscriptionIdentifier, 7);
    check("what is left of its life", properties.messageExpiryInterval <= 600 && properties.messageExpiryInterval > 500);
    await Promise.all([both.endAsync(), giver.endAsync()]);
  }

  const members = await Promise.all([0, 1, 2].map((n) => enter(`member-${n}`)));
  for (const member of members) await member.subscribeAsync("$share/team/lab/jobs/#", { qos: 1 });
  for (const n of numbers(60)) await say.publishAsync("lab/jobs/x", n, { qos: 1 });
  const all = () => members.flatMap(({ got }) => got.map(({ text }) => Number(text)));
  for (let waited = 0; all().length < 60 && waited < 10_000; waited += 10) await sleep(10);
  await sleep(300);
  check("each message went to one member", all().sort((a, b) => a - b), numbers(60).map(Number));
  await Promise.all([say, ...members].map((client) => client.endAsync()));
}

clearTimeout(limit);
console.log(passed, "checks passed");
process.exit(0);
