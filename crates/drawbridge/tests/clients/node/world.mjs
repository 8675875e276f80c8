// What every script here is told, and how it counts. Arguments: a JSON file (see e2e/interop.rs).
import { readFileSync } from "node:fs";

import { importPKCS8 } from "jose";

export const world = JSON.parse(readFileSync(process.argv[2], "utf8"));
export const issuer = new URL(world.issuer);
export const apiAudience = `${world.issuer}/v1`;

let passed = 0;

export function check(what, holds) {
  if (!holds) {
    console.error(`failed: ${what}`);
    process.exit(1);
  }
  passed += 1;
}

/** Runs `action`, which must throw something that `fits`. */
export async function refused(what, action, fits) {
  try {
    await action();
  } catch (error) {
    if (!fits(error)) throw error;
    check(what, true);
    return;
  }
  check(what, false);
}

export async function privateKey(principal) {
  return importPKCS8(readFileSync(principal.key, "utf8"), principal.alg);
}

export function done() {
  console.log(passed, "checks passed");
}

export function version(name) {
  const text = readFileSync(new URL(`./node_modules/${name}/package.json`, `file://${world.packages}/`), "utf8");
  return `${name} ${JSON.parse(text).version}`;
}
