// jose's createRemoteJWKSet, which keeps the JWK set, goes on while the issuer's key is rotated. For each line on
// standard input (a file with a token): whether it verifies.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { createRemoteJWKSet, jwtVerify } from "jose";

import { version, world } from "./world.mjs";

console.log("node", process.version, version("jose"));
// It keeps the set for 2 s, and reads it at most every 30 s for a key that it does not know.
const keys = createRemoteJWKSet(new URL(`${world.issuer}/oauth/jwks`), { cacheMaxAge: 2000 });
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
