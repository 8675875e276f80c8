// openid-client: the same flows by the library that most Node servers use.
import { createRemoteJWKSet, jwtVerify } from "jose";
import * as client from "openid-client";

import { apiAudience, check, done, issuer, privateKey, refused, version, world } from "./world.mjs";

console.log("node", process.version, version("openid-client"), version("jose"));

const self = new URL(`${world.issuer}/v1/self`);

for (const [principal, algorithm] of [[world.es256, "oauth2"], [world.ed25519, "oidc"]]) {
  const auth = client.PrivateKeyJwt(await privateKey(principal));
  const config = await client.discovery(issuer, principal.name, undefined, auth, { algorithm });
  const keys = createRemoteJWKSet(new URL(config.serverMetadata().jwks_uri));
  const verify = (token, audience) => jwtVerify(token, keys, { typ: "at+jwt", issuer: world.issuer, audience });

  const bearer = await client.clientCredentialsGrant(config, { resource: apiAudience });
  check("a bearer token", bearer.token_type === "bearer" && bearer.expiresIn() > 0);
  const { payload } = await verify(bearer.access_token, apiAudience);
  check("for this client", payload.sub === principal.name);
  await refused("an audience that it is not for", () => verify(bearer.access_token, "https://other.example"),
    (error) => error.code === "ERR_JWT_CLAIM_VALIDATION_FAILED");
  const own = await client.fetchProtectedResource(config, bearer.access_token, self, "GET");
  check("the own record", own.status === 200);

  const told = await client.tokenIntrospection(config, bearer.access_token);
  check("introspection", told.active && told.client_id === principal.name);
  const alg = config.serverMetadata().introspection_signing_alg_values_supported[0];
  const signed = await client.discovery(
    issuer, principal.name, { introspection_signed_response_alg: alg }, auth, { algorithm });
  client.enableNonRepudiationChecks(signed);
  const inside = await client.tokenIntrospection(signed, bearer.access_token);
  check("introspection as a JWT, its signature checked", inside.active && inside.jti === told.jti);

  await client.tokenRevocation(config, bearer.access_token);
  check("revoked", !(await client.tokenIntrospection(config, bearer.access_token)).active);
  check("as a JWT too", !(await client.tokenIntrospection(signed, bearer.access_token)).active);

  const DPoP = client.getDPoPHandle(config, await client.randomDPoPKeyPair("ES256"));
  const bound = await client.clientCredentialsGrant(config, { resource: apiAudience }, { DPoP });
  check("a DPoP token, the nonce dance done by the library", bound.token_type === "dpop");
  const cnf = (await verify(bound.access_token, apiAudience)).payload.cnf;
  check("bound", typeof cnf.jkt === "string");
  const read = await client.fetchProtectedResource(config, bound.access_token, self, "GET", undefined, undefined, { DPoP });
  check("the own record with a proof", read.status === 200 && (await read.json()).name === principal.name);
  await refused("without a proof", () => client.fetchProtectedResource(config, bound.access_token, self, "GET"),
    (error) => error.status === 401);

  await refused("a scope that is not granted",
    () => client.clientCredentialsGrant(config, { resource: apiAudience, scope: "no:such" }),
    (error) => error.error === "invalid_scope");
  await refused("a service that is not here",
    () => client.clientCredentialsGrant(config, { resource: "https://other.example" }),
    (error) => error.error === "invalid_target");
}

// A generated secret; the library's default is client_secret_post.
for (const method of [client.ClientSecretPost, client.ClientSecretBasic]) {
  const config = await client.discovery(
    issuer, world.secret.name, undefined, method(world.secret.secret), { algorithm: "oauth2" });
  const grant = await client.clientCredentialsGrant(config);
  check(`${method.name}`, (await client.tokenIntrospection(config, grant.access_token)).active);
  await client.tokenRevocation(config, grant.access_token);
  check("revoked", !(await client.tokenIntrospection(config, grant.access_token)).active);
}

// Token exchange for a gateway (RFC 8693), by the library's generic grant.
{
  const auth = client.PrivateKeyJwt(await privateKey(world.gateway));
  const config = await client.discovery(issuer, world.gateway.name, undefined, auth, { algorithm: "oauth2" });
  const { access_token: own } = await client.clientCredentialsGrant(config);
  const type = "urn:ietf:params:oauth:token-type:access_token";
  const exchange = (device) => client.genericGrantRequest(config, "urn:ietf:params:oauth:grant-type:token-exchange",
    { subject_token: own, subject_token_type: type, device });
  const grant = await exchange(world.es256.name);
  check("exchanged", grant.issued_token_type === type);
  const told = await client.tokenIntrospection(config, grant.access_token);
  check("acts for the device", told.active && told.sub === world.es256.name && told.act.sub === world.gateway.name);
  await refused("a device that it is not linked to", () => exchange(world.ed25519.name),
    (error) => error.error === "invalid_target");
}
done();
