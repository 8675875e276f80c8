// jose's createRemoteJWKSet goes on while the issuer's key is rotated. Prints `ready TOKEN-LESS`, then for each line on
// standard input (a file with a token) whether the set that it keeps verifies it.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { createRemoteJWKSet, jwtVerify } from "jose";

import { version, world } from "./world.mjs";

console.log("node", process.version, version("jose"));
// The default: a set is kept for 10 min, and asked for again at most every 30 s when a key is unknown.
const keys = createRemoteJWKSet(new URL(`${world.issuer}/oauth/jwks`), { cooldownDuration: 0 });
for await (const file of createInterface({ input: process.stdin })) {
  try {
    const { protectedHeader } = await jwtVerify(readFileSync(file, "utf8").trim(), keys, {
      typ: "at+jwt", issuer: world.issuer, audience: world.bridge_audience,
    });
    console.log("good", protectedHeader.alg, protectedHeader.kid);
  } catch (error) {
    console.log("bad", error.code);
  }
}
