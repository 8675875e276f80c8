// oauth4webapi: discovery, private_key_jwt (ES256, Ed25519), introspection in both forms, revocation, DPoP with the
// nonce of the server, a device without a good clock; `jose` and oauth4webapi's own verifier judge the tokens.
import { createRemoteJWKSet, jwtVerify } from "jose";
import * as oauth from "oauth4webapi";

import { apiAudience, check, done, issuer, privateKey, refused, version, world } from "./world.mjs";

console.log("node", process.version, version("oauth4webapi"), version("jose"));

const documents = [];
for (const algorithm of ["oauth2", "oidc"]) {
  const answer = await oauth.discoveryRequest(issuer, { algorithm });
  documents.push(await oauth.processDiscoveryResponse(issuer, answer));
}
const [as] = documents;
check("both documents say the same", JSON.stringify(documents[0]) === JSON.stringify(documents[1]));
check("private_key_jwt is offered", as.token_endpoint_auth_methods_supported.includes("private_key_jwt"));

// An issuer with a path: RFC 8414 puts the well-known part before it, OpenID Connect after.
for (const algorithm of ["oauth2", "oidc"]) {
  const plant = new URL(world.opaque.issuer);
  const found = await oauth.processDiscoveryResponse(plant, await oauth.discoveryRequest(plant, { algorithm }));
  check(`${algorithm}: the issuer of a further registry`, found.issuer === world.opaque.issuer);
}

const keys = createRemoteJWKSet(new URL(as.jwks_uri));
const self = new URL(`${world.issuer}/v1/self`);

async function verified(token, audience, client) {
  const { payload, protectedHeader } = await jwtVerify(token, keys, {
    typ: "at+jwt",
    issuer: world.issuer,
    audience,
    requiredClaims: ["exp", "iat", "jti", "sub", "client_id"],
  });
  check("it is for this client", payload.sub === client.client_id && payload.client_id === client.client_id);
  check("it is signed by a key of the set", typeof protectedHeader.kid === "string");
  return payload;
}

async function login(client, auth, parameters, options) {
  const answer = await oauth.clientCredentialsGrantRequest(as, client, auth, parameters, options);
  return oauth.processClientCredentialsResponse(as, client, answer);
}

async function introspected(client, auth, token) {
  const answer = await oauth.introspectionRequest(as, client, auth, token);
  return oauth.processIntrospectionResponse(as, client, answer);
}

for (const principal of [world.es256, world.ed25519]) {
  const client = { client_id: principal.name };
  const auth = oauth.PrivateKeyJwt(await privateKey(principal));
  const { access_token: token, token_type, expires_in } = await login(client, auth, { resource: apiAudience });
  check("a bearer token comes back", token_type === "bearer" && expires_in > 0);
  await verified(token, apiAudience, client);
  const request = new Request(self, { headers: { authorization: `Bearer ${token}` } });
  const claims = await oauth.validateJwtAccessToken(as, request, apiAudience);
  check("RFC 9068 by oauth4webapi", claims.sub === principal.name);

  const own = await oauth.protectedResourceRequest(token, "GET", self);
  check("the device reads its own record", own.status === 200 && (await own.json()).name === principal.name);
  const other = await oauth.protectedResourceRequest(
    (await login(client, auth, {})).access_token, "GET", self);
  check("also with a token for the bridge", other.status === 200);

  const told = await introspected(client, auth, token);
  check("introspection knows it", told.active && told.sub === principal.name && told.aud === apiAudience);
  const jwtClient = { ...client, introspection_signed_response_alg: as.introspection_signing_alg_values_supported[0] };
  const answer = await oauth.introspectionRequest(as, jwtClient, auth, token, { requestJwtResponse: true });
  check("it comes as a JWT", answer.headers.get("content-type") === "application/token-introspection+jwt");
  const signed = answer.clone();
  const inside = await oauth.processIntrospectionResponse(as, jwtClient, answer);
  check("and says the same", inside.active && inside.jti === told.jti && inside.exp === told.exp);
  await jwtVerify(await signed.text(), keys, {
    typ: "token-introspection+jwt", issuer: world.issuer, audience: principal.name,
  });
  check("signed by the issuer", true);

  await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, auth, token));
  const gone = await introspected(client, auth, token);
  check("revoked: not active, and nothing else", !gone.active && Object.keys(gone).length === 1);
  await refused("revoked: refused as a token",
    async () => {
      const late = await oauth.protectedResourceRequest(token, "GET", self);
      if (late.status === 401) throw Object.assign(new Error("401"), { status: 401 });
    },
    (error) => error.status === 401);
  await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, auth, token));
  check("a second time is 200 as well", true);
}

// Of another: inactive, whoever asks.
{
  const [mine, theirs] = [{ client_id: world.es256.name }, { client_id: world.ed25519.name }];
  const myAuth = oauth.PrivateKeyJwt(await privateKey(world.es256));
  const theirAuth = oauth.PrivateKeyJwt(await privateKey(world.ed25519));
  const { access_token: token } = await login(mine, myAuth, {});
  check("an outsider is told nothing", !(await introspected(theirs, theirAuth, token)).active);
  await oauth.processRevocationResponse(await oauth.revocationRequest(as, theirs, theirAuth, token));
  check("and revokes nothing", (await introspected(mine, myAuth, token)).active);
  await refused("a wrong key is invalid_client",
    () => login(mine, theirAuth, {}),
    (error) => error.cause?.parameters?.size > 0 || error.error === "invalid_client" || error.status === 401);
}

// DPoP. The server asks for its nonce (RFC 9449 section 8), at the token endpoint and at the resource.
for (const principal of [world.es256, world.coarse]) {
  const client = { client_id: principal.name };
  const auth = oauth.PrivateKeyJwt(await privateKey(principal), {
    // A device whose clock is not good shows a nonce in its assertion too.
    [oauth.modifyAssertion]: (_, payload) => Object.assign(payload, nonce && { nonce }),
  });
  let nonce;
  if (principal === world.coarse) {
    await refused("its assertion wants a nonce", () => login(client, auth, {}),
      (error) => error.status === 401 || error.cause !== undefined);
    nonce = (await (await fetch(as.challenge_endpoint, { method: "POST" })).json()).nonce;
  }
  for (const alg of ["ES256", "Ed25519"]) {
    const pair = await oauth.generateKeyPair(alg);
    const DPoP = oauth.DPoP(client, pair);
    let asked = 0;
    const twice = async (action) => {
      try {
        return await action();
      } catch (error) {
        if (!oauth.isDPoPNonceError(error)) throw error;
        asked += 1;
        return action();
      }
    };
    const grant = await twice(() => login(client, auth, { resource: apiAudience }, { DPoP }));
    check("a DPoP token comes back", grant.token_type === "dpop");
    check("after the server asked for a nonce", asked === 1);
    const payload = await verified(grant.access_token, apiAudience, client);
    check("bound to the key", payload.cnf.jkt === (await DPoP.calculateThumbprint()));
    const own = await twice(() => oauth.protectedResourceRequest(
      grant.access_token, "GET", self, undefined, undefined, { DPoP }));
    check("it opens the API with its proof", own.status === 200 && (await own.json()).name === principal.name);
    const request = new Request(self, { headers: { authorization: `DPoP ${grant.access_token}` } });
    await refused("oauth4webapi too wants the proof", () => oauth.validateJwtAccessToken(as, request, apiAudience),
      () => true);
    await refused("as a bearer token it is worth nothing",
      () => oauth.protectedResourceRequest(grant.access_token, "GET", self),
      (error) => error.status === 401);
    const other = oauth.DPoP(client, await oauth.generateKeyPair(alg));
    await refused("nor with a proof by another key",
      () => twice(() => oauth.protectedResourceRequest(
        grant.access_token, "GET", self, undefined, undefined, { DPoP: other })),
      (error) => error.status === 401 && !oauth.isDPoPNonceError(error));
  }
}

// Opaque tokens.
{
  const plant = new URL(world.opaque.issuer);
  const server = await oauth.processDiscoveryResponse(plant, await oauth.discoveryRequest(plant));
  const client = { client_id: world.opaque.name };
  const auth = oauth.PrivateKeyJwt(await privateKey(world.opaque));
  const grant = await oauth.processClientCredentialsResponse(
    server, client, await oauth.clientCredentialsGrantRequest(server, client, auth, {}));
  check("it is opaque", grant.access_token.startsWith("dbo_"));
  const ask = async () => oauth.processIntrospectionResponse(
    server, client, await oauth.introspectionRequest(server, client, auth, grant.access_token));
  const told = await ask();
  check("introspection tells", told.active && told.sub === world.opaque.name && told.iss === world.opaque.issuer);
  await oauth.processRevocationResponse(await oauth.revocationRequest(server, client, auth, grant.access_token));
  check("revoked", !(await ask()).active);
}

// A generated secret.
{
  const client = { client_id: world.secret.name };
  for (const method of [oauth.ClientSecretBasic, oauth.ClientSecretPost]) {
    const { access_token: token } = await login(client, method(world.secret.secret), { resource: apiAudience });
    await verified(token, apiAudience, client);
    await refused(`${method.name}: a wrong secret is 401`, () => login(client, method("wrong"), {}),
      (error) => error.status === 401);
  }
}
done();
