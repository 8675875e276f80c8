"""Every JWT that a device or application signs for Drawbridge, with stock PyJWT and cryptography. Prints one of:

    jwts.py assertion FOLDER [--nonce N] [--no-dates]    the client_assertion of a request
    jwts.py dpop KEY METHOD URL [--nonce N] [--token T]  the header DPoP
    jwts.py update FOLDER NEW_KEY                        the body for POST /v1/self/keys
    jwts.py remove FOLDER KID                            the body for POST /v1/self/keys:remove
    jwts.py enrol NAME KEY ISSUER NONCE TOKEN            the body for POST /oauth/register; TOKEN may be a statement
    jwts.py statement FOLDER ID_PATTERN                  a software statement of the manufacturer in FOLDER
    jwts.py legacy FOLDER [--new NEW_KEY]                the login of the IoT IdP paths, or the update to NEW_KEY
    jwts.py legacy-pop JWT NEW_KEY                       the member `pop` beside that update
    jwts.py jwk KEY                                      the public half of a key

FOLDER is what `drawbridge device add ID --out DIR` wrote; KEY is a private key, PEM (P-256 or Ed25519).
"""

import argparse
import hashlib
import json
import pathlib
import time
import uuid
from base64 import b64encode, urlsafe_b64encode

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

PEM, SubjectPublicKeyInfo = Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
NOW = int(time.time())


def digest(text):
    return urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def key_of(path):
    return load_pem_private_key(pathlib.Path(path).read_bytes(), None)


def algorithm(key):
    return "EdDSA" if isinstance(key, ed25519.Ed25519PrivateKey) else "ES256"


def jwk_of(key):
    kind = jwt.algorithms.OKPAlgorithm if algorithm(key) == "EdDSA" else jwt.algorithms.ECAlgorithm
    jwk = json.loads(kind.to_jwk(key.public_key()))
    return {name: jwk[name] for name in ("kty", "crv", "x", "y") if name in jwk}


def kid_of(key):
    """RFC 7638: the thumbprint of the key."""
    return digest(json.dumps(jwk_of(key), sort_keys=True, separators=(",", ":")))


def sign(typ, claims, key, **header):
    claims = {"jti": uuid.uuid4().hex} | claims
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm(key), headers={"typ": typ} | header)


def own(folder):
    """Who signs, and with what: name, issuer, key."""
    folder = pathlib.Path(folder)
    record = json.loads((folder / "device.json").read_text())
    return record["device"], record["issuer"], key_of(folder / "key.pem")


def dates(life_s=60):
    return {"iat": NOW, "exp": NOW + life_s}


def assertion(folder, nonce, no_dates):
    name, issuer, key = own(folder)
    claims = {"iss": name, "sub": name, "aud": issuer, "nonce": nonce} | ({} if no_dates else dates())
    return sign("client-authentication+jwt", claims, key)


def dpop(key, method, url, nonce, token):
    claims = {"htm": method, "htu": url, "iat": NOW, "nonce": nonce, "ath": digest(token) if token else None}
    key = key_of(key)
    return sign("dpop+jwt", claims, key, jwk=jwk_of(key))


def update(folder, new_key):
    name, issuer, key = own(folder)
    new_key = key_of(new_key)
    claims = {"iss": name, "sub": name, "aud": issuer, "cnf": {"jwk": jwk_of(new_key)}} | dates()
    named = sign("key-update+jwt", claims, key)
    pop = sign("key-pop+jwt", {"aud": issuer, "upd": digest(named)} | dates(), new_key, jwk=jwk_of(new_key))
    return json.dumps({"update": named, "pop": pop, "retire": "old"})


def remove(folder, kid):
    name, issuer, key = own(folder)
    claims = {"iss": name, "sub": name, "aud": issuer, "kid": kid} | dates()
    return json.dumps({"remove": sign("key-remove+jwt", claims, key)})


def enrol(name, key, issuer, nonce, token):
    key = key_of(key)
    proof = sign(
        "enrolment-proof+jwt",
        {"sub": name, "aud": issuer, "nonce": nonce, "eth": digest(token)},
        key,
        jwk=jwk_of(key),
    )
    body = {"client_id_hint": name, "jwks": {"keys": [jwk_of(key)]}, "proof": proof}
    if not token.startswith("dbe_"):
        body["software_statement"] = token
    return json.dumps(body)


def statement(folder, id_pattern):
    name, issuer, key = own(folder)
    claims = {"iss": name, "aud": issuer, "software_id": "pump-firmware", "id_pattern": id_pattern}
    return sign("software-statement+jwt", claims | dates(90 * 86_400), key)


def legacy(folder, new):
    name, issuer, key = own(folder)
    pem = key_of(new).public_key().public_bytes(PEM, SubjectPublicKeyInfo).decode() if new else None
    return sign("JWT", {"sub": name, "aud": issuer, "public_key": pem}, key, kid=name)


def legacy_pop(token, new_key):
    signature = key_of(new_key).sign(token.encode(), ec.ECDSA(hashes.SHA256()))  # DER
    return b64encode(signature).decode()


def jwk(key):
    return json.dumps(jwk_of(key_of(key)) | {"kid": kid_of(key_of(key))})


parser = argparse.ArgumentParser(usage=__doc__)
verbs = parser.add_subparsers(dest="verb", required=True)
for verb, words in {
    "assertion": "folder --nonce --no-dates",
    "dpop": "key method url --nonce --token",
    "update": "folder new_key",
    "remove": "folder kid",
    "enrol": "name key issuer nonce token",
    "statement": "folder id_pattern",
    "legacy": "folder --new",
    "legacy-pop": "token new_key",
    "jwk": "key",
}.items():
    one = verbs.add_parser(verb)
    for word in words.split():
        one.add_argument(word, **({"action": "store_true"} if word == "--no-dates" else {}))
given = vars(parser.parse_args())
print(globals()[given.pop("verb").replace("-", "_")](**given))
