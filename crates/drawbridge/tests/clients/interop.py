"""Authlib, joserfc and requests: the flows of OAuth, each by the ways to log in; PyJWT and joserfc judge the tokens.

Argument: a JSON file (see e2e/interop.rs)
"""

import base64
import datetime
import hashlib
import json
import pathlib
import secrets
import ssl
import sys
import time

import authlib
import joserfc
import jwt
import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt as jose_jwt
from joserfc.jwk import ECKey, KeySet, OKPKey

world = json.loads(pathlib.Path(sys.argv[1]).read_text())
issuer, api = world["issuer"], world["issuer"] + "/v1"
metadata = world["metadata"]
TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
print(
    "Authlib", authlib.__version__, "joserfc", joserfc.__version__, "PyJWT", jwt.__version__,
    "requests", requests.__version__,
)  # fmt: skip
passed = 0


def check(what, holds):
    global passed
    if not holds:
        sys.exit(f"failed: {what}")
    passed += 1


http = requests.Session()
http.verify, http.trust_env = world["ca"], False  # this root and no other

for path in ("oauth-authorization-server", "openid-configuration"):
    check(f"{path} is the metadata", http.get(f"{issuer}/.well-known/{path}", timeout=20).json() == metadata)

pyjwt_keys = jwt.PyJWKClient(
    metadata["jwks_uri"], ssl_context=ssl.create_default_context(cafile=world["ca"])
)
joserfc_keys = KeySet.import_key_set(http.get(metadata["jwks_uri"], timeout=20).json())


def verified(token, audience, name):
    """By both verifiers, with nothing but the JWK set."""
    claims = jwt.decode(
        token,
        pyjwt_keys.get_signing_key_from_jwt(token).key,
        algorithms=["ES256", "RS256", "EdDSA"],
        issuer=issuer,
        audience=audience,
        options={"require": ["exp", "iat", "jti", "sub", "iss", "aud"]},
    )
    second = jose_jwt.decode(token, joserfc_keys, algorithms=["ES256", "RS256", "Ed25519", "EdDSA"])
    registry = jose_jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": issuer}, aud={"essential": True, "value": audience}, exp={"essential": True}
    )
    registry.validate(second.claims)
    check("PyJWT and joserfc read the same", second.claims == claims)
    check("typ", second.header["typ"] == "at+jwt" and jwt.get_unverified_header(token)["typ"] == "at+jwt")
    check("for this client", claims["sub"] == name and claims["client_id"] == name)
    return claims


def private_key(principal):
    kind = OKPKey if principal["alg"] == "Ed25519" else ECKey
    return kind.import_key(pathlib.Path(principal["key"]).read_text())


class ShortAssertion(PrivateKeyJWT):
    """Authlib's own hour of life is more than the 300 s that Drawbridge takes. Claims that it is given it keeps, with
    the `jti` of their first use, so each JWT gets claims of its own."""

    def sign(self, auth, token_endpoint):
        self.claims = {"exp": int(time.time()) + 120}
        return super().sign(auth, token_endpoint)


def session_of(principal):
    session = OAuth2Session(
        principal["name"], private_key(principal), token_endpoint_auth_method="private_key_jwt",
        revocation_endpoint_auth_method="private_key_jwt",
    )  # fmt: skip
    session.verify, session.trust_env = world["ca"], False
    # RFC 10070: the audience of the assertion is the issuer, not the token endpoint.
    session.register_client_auth_method(ShortAssertion(issuer, alg=principal["alg"]))
    return session


# Authlib with its own private_key_jwt, for the three endpoints.
for principal in (world["es256"], world["ed25519"]):
    session = session_of(principal)
    token = session.fetch_token(metadata["token_endpoint"], grant_type="client_credentials", resource=api)
    verified(token["access_token"], api, principal["name"])
    me = session.get(api + "/self", timeout=20)
    check("the own record", me.status_code == 200 and me.json()["name"] == principal["name"])
    told = session.introspect_token(metadata["introspection_endpoint"], token["access_token"]).json()
    check("introspection", told["active"] and told["sub"] == principal["name"] and told["aud"] == api)
    answer = session.introspect_token(
        metadata["introspection_endpoint"], token["access_token"],
        headers={"Accept": "application/token-introspection+jwt"},
    )  # fmt: skip
    inside = jose_jwt.decode(answer.text, joserfc_keys, algorithms=["ES256", "RS256"])
    check("RFC 9701: typ", inside.header["typ"] == "token-introspection+jwt")
    check("RFC 9701: the same", inside.claims["token_introspection"] == told)
    check("RFC 9701: for the caller", inside.claims["aud"] == principal["name"] and inside.claims["iss"] == issuer)
    revoked = session.revoke_token(metadata["revocation_endpoint"], token["access_token"])
    check("revocation", revoked.status_code == 200)
    told = session.introspect_token(metadata["introspection_endpoint"], token["access_token"]).json()
    check("not active, and nothing else", told == {"active": False})
    check("refused as a token", session.get(api + "/self", timeout=20).status_code == 401)


# joserfc and requests alone, for what Authlib does not do: DPoP with the server's nonce, a clock that is not good.
def assertion(principal, **more):
    now, name = int(time.time()), principal["name"]
    claims = {
        "iss": name, "sub": name, "aud": issuer, "iat": now, "exp": now + 60, "jti": secrets.token_hex(16), **more,
    }  # fmt: skip
    header = {"alg": principal["alg"], "typ": "client-authentication+jwt"}
    return jose_jwt.encode(header, claims, private_key(principal), algorithms=["ES256", "Ed25519"])


def post(url, principal, form, headers=None, **more):
    form = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion(principal, **more), **form}
    return http.post(url, data=form, headers=headers, timeout=20)


def dpop(key, method, url, nonce=None, token=None, **more):
    claims = {"htm": method, "htu": url, "iat": int(time.time()), "jti": secrets.token_hex(16), **more}
    if nonce:
        claims["nonce"] = nonce
    if token:
        claims["ath"] = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
    header = {"alg": "ES256", "typ": "dpop+jwt", "jwk": key.as_dict(private=False)}
    return jose_jwt.encode(header, claims, key, algorithms=["ES256"])


grant = {"grant_type": "client_credentials", "resource": api}
url = metadata["token_endpoint"]
coarse = world["coarse"]
answer = post(url, coarse, grant)
check("a coarse clock wants a nonce", answer.status_code == 401 and answer.json()["code"] == "DB-1032")
nonce = answer.json()["nonce"]
key = ECKey.generate_key("P-256")
answer = post(url, coarse, grant, {"DPoP": dpop(key, "POST", url)}, nonce=nonce)
check("the proof too", answer.status_code == 400 and answer.json()["error"] == "use_dpop_nonce")
proof = dpop(key, "POST", url, answer.headers["DPoP-Nonce"])
answer = post(url, coarse, grant, {"DPoP": proof}, nonce=nonce)
check("a DPoP token", answer.status_code == 200 and answer.json()["token_type"] == "DPoP")
token = answer.json()["access_token"]
check("bound", verified(token, api, coarse["name"])["cnf"] == {"jkt": key.thumbprint()})
check("a proof is good once", post(url, coarse, grant, {"DPoP": proof}, nonce=nonce).status_code == 400)
me = api + "/self"
answer = http.get(me, headers={"Authorization": f"DPoP {token}", "DPoP": dpop(key, "GET", me, None, token)}, timeout=20)
check("the resource wants its nonce", answer.status_code == 401 and "use_dpop_nonce" in answer.headers["WWW-Authenticate"])
nonce = answer.headers["DPoP-Nonce"]


def read(proof, scheme="DPoP"):
    headers = {"Authorization": f"{scheme} {token}"} | ({"DPoP": proof} if proof else {})
    return http.get(me, headers=headers, timeout=20).status_code


check("with a proof", read(dpop(key, "GET", me, nonce, token)) == 200)
check("as Bearer", read(None, "Bearer") == 401)
check("as Bearer beside a proof", read(dpop(key, "GET", me, nonce, token), "Bearer") == 401)
check("without a proof", read(None) == 401)
check("another method", read(dpop(key, "POST", me, nonce, token)) == 401)
check("another path", read(dpop(key, "GET", api + "/devices", nonce, token)) == 401)
check("without ath", read(dpop(key, "GET", me, nonce)) == 401)
check("another key", read(dpop(ECKey.generate_key("P-256"), "GET", me, nonce, token)) == 401)

# A generated secret, in the header and in the body, by Authlib.
app = world["secret"]
for method in ("client_secret_basic", "client_secret_post"):
    session = OAuth2Session(
        app["name"], app["secret"], token_endpoint_auth_method=method, revocation_endpoint_auth_method=method
    )
    session.verify, session.trust_env = world["ca"], False
    token = session.fetch_token(url, grant_type="client_credentials", resource=api)["access_token"]
    verified(token, api, app["name"])
    check(method, session.introspect_token(metadata["introspection_endpoint"], token).json()["active"])
    session.revoke_token(metadata["revocation_endpoint"], token)
    check("revoked", session.introspect_token(metadata["introspection_endpoint"], token).json() == {"active": False})
    wrong = OAuth2Session(app["name"], app["secret"][:-1] + "x", token_endpoint_auth_method=method)
    wrong.verify, wrong.trust_env = world["ca"], False
    try:
        wrong.fetch_token(url, grant_type="client_credentials")
        check("a wrong secret", False)
    except OAuthError as error:
        check("a wrong secret", error.error == "invalid_client")

# Mutual TLS by requests: RFC 8705, self-signed certificate of the registered key.
name, pem = world["es256"]["name"], pathlib.Path(world["es256"]["key"]).read_bytes()
signer = serialization.load_pem_private_key(pem, None)
now = datetime.datetime.now(datetime.timezone.utc)


def certificate(signer):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "any")])
    builder = x509.CertificateBuilder(subject, subject, signer.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(signer, hashes.SHA256())


def files(stem, signer):
    folder = pathlib.Path(sys.argv[1]).parent
    own = certificate(signer)
    (folder / f"{stem}.crt").write_bytes(own.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{stem}-tls-key.pem").write_bytes(signer.private_bytes(*form))
    digest = hashlib.sha256(own.public_bytes(serialization.Encoding.DER)).digest()
    thumbprint = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return (str(folder / f"{stem}.crt"), str(folder / f"{stem}-tls-key.pem")), thumbprint


mine, x5t = files("mine", signer)
theirs, _ = files("theirs", ec.generate_private_key(ec.SECP256R1()))
form = {"client_id": name, **grant}


def over_tls(method, url, cert, **more):
    return requests.request(method, url, cert=cert, verify=world["ca"], timeout=20, **more)


answer = over_tls("POST", url, mine, data=form)
check("a login by certificate", answer.status_code == 200)
token = answer.json()["access_token"]
check("bound to it", verified(token, api, name)["cnf"] == {"x5t#S256": x5t})
bearer = {"Authorization": f"Bearer {token}"}
check("with the certificate", over_tls("GET", me, mine, headers=bearer).status_code == 200)
check("without", over_tls("GET", me, None, headers=bearer).status_code == 401)
check("with another", over_tls("GET", me, theirs, headers=bearer).status_code == 401)
check("a certificate of nobody", over_tls("POST", url, theirs, data=form).status_code == 401)
told = over_tls("POST", metadata["introspection_endpoint"], mine, data={"client_id": name, "token": token}).json()
check("introspection by certificate", told["active"] and told["cnf"] == {"x5t#S256": x5t})
over_tls("POST", metadata["revocation_endpoint"], mine, data={"client_id": name, "token": token})
check("revoked by certificate", over_tls("GET", me, mine, headers=bearer).status_code == 401)

# Token exchange: a gateway acts for a device that it is linked to.
gateway = world["gateway"]
session = session_of(gateway)
own = session.fetch_token(url, grant_type="client_credentials")["access_token"]
exchange = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token": own,
    "subject_token_type": TOKEN_TYPE,
}
answer = post(url, gateway, exchange | {"device": name})
check("exchanged", answer.status_code == 200 and answer.json()["issued_token_type"] == TOKEN_TYPE)
acting = answer.json()["access_token"]
claims = jwt.decode(
    acting, pyjwt_keys.get_signing_key_from_jwt(acting).key, algorithms=["ES256", "RS256"], issuer=issuer,
    audience=world["bridge_audience"],
)  # fmt: skip
check("sub and act", claims["sub"] == name and claims["act"]["sub"] == gateway["name"])
answer = post(url, gateway, exchange | {"device": world["ed25519"]["name"]})
check("not linked", answer.status_code == 400 and answer.json()["error"] == "invalid_target")
told = session.introspect_token(metadata["introspection_endpoint"], acting).json()
check("introspection of it", told["active"] and told["act"]["sub"] == gateway["name"])
session.revoke_token(metadata["revocation_endpoint"], acting)
check("revoked", not session.introspect_token(metadata["introspection_endpoint"], acting).json()["active"])

# A registry with opaque tokens.
opaque = world["opaque"]
base = opaque["issuer"]
found = http.get(opaque["metadata_url"], timeout=20).json()
check("its issuer", found["issuer"] == base)
issuer = base  # of the assertions from here on
session = session_of(opaque)
token = session.fetch_token(found["token_endpoint"], grant_type="client_credentials", resource=base + "/v1")["access_token"]
check("opaque", token.startswith("dbo_") and len(token) == 53 and "." not in token)
told = session.introspect_token(found["introspection_endpoint"], token).json()
check("introspection tells", told["active"] and told["sub"] == opaque["name"] and told["aud"] == base + "/v1")
me = http.get(found["api_audience"] + "/self", headers={"Authorization": f"Bearer {token}"}, timeout=20)
check("it opens the API", me.status_code == 200 and me.json()["name"] == opaque["name"])
session.revoke_token(found["revocation_endpoint"], token)
check("revoked", session.introspect_token(found["introspection_endpoint"], token).json() == {"active": False})
print(passed, "checks passed")
