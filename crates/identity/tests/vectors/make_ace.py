"""Makes ace.json: what RFC 9431 and its kin have on the wire, built by other hands than ours.

Run by hand when a form changes: `pip install cbor2 cryptography`, then
`python3 crates/identity/tests/vectors/make_ace.py > crates/identity/tests/vectors/ace.json`.
Keys are made of one byte each; everybody knows them.
"""

import base64
import hashlib
import hmac
import json
import struct

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


NOW = 1795301000
ISSUER = "https://core.example"
BRIDGE = ISSUER + "/mqtt"
DEVICE_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
EC_KEY = ec.derive_private_key(int.from_bytes(bytes([2]) * 32, "big"), ec.SECP256R1())
ISSUER_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([6]) * 32)
HMAC_KEY = bytes([7]) * 32
SECRET = bytes([8]) * 32
NONCE = bytes([9]) * 12
CTI = bytes(range(16))
JTI = b64(CTI)
SCOPE = [["t1", ["pub", "sub"]], ["t2/#", ["pub"]], ["+/t3", ["sub"]]]

okp_x = DEVICE_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
point = EC_KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
issuer_x = ISSUER_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
OKP_JWK = {"crv": "Ed25519", "kty": "OKP", "x": b64(okp_x)}
EC_JWK = {"crv": "P-256", "kty": "EC", "x": b64(point[1:33]), "y": b64(point[33:])}
ISSUER_JWK = {"crv": "Ed25519", "kty": "OKP", "x": b64(issuer_x)}
OKP_COSE = {1: 1, -1: 6, -2: okp_x}
EC_COSE = {1: 2, -1: 1, -2: point[1:33], -3: point[33:]}
OKP_KID = hashlib.sha256(compact(OKP_JWK)).digest()
ISSUER_KID = hashlib.sha256(compact(ISSUER_JWK)).digest()


def ecdsa(message):
    der = EC_KEY.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = utils.decode_dss_signature(der)
    return der, r.to_bytes(32, "big") + s.to_bytes(32, "big")


# --- sealed keys -------------------------------------------------------------------------------

KEK = hmac.new(SECRET, b"drawbridge ace key 1\0" + JTI.encode(), hashlib.sha256).digest()


def jwe():
    head = b64(b'{"alg":"dir","enc":"A256GCM"}')
    plain = compact({"alg": "HS256", "k": b64(HMAC_KEY), "kty": "oct"})
    sealed = AESGCM(KEK).encrypt(NONCE, plain, head.encode())
    return ".".join([head, "", b64(NONCE), b64(sealed[:-16]), b64(sealed[-16:])])


def cose_encrypt0():
    protected = cbor2.dumps({1: 3})
    aad = cbor2.dumps(["Encrypt0", protected, b""])
    plain = cbor2.dumps({1: 4, 3: 5, -1: HMAC_KEY})
    return [protected, {5: NONCE}, AESGCM(KEK).encrypt(NONCE, plain, aad)]


# --- tokens ------------------------------------------------------------------------------------


def claims(cnf=None, **more):
    body = {
        "iss": ISSUER, "sub": "sensor-17", "client_id": "sensor-17", "aud": BRIDGE, "iat": NOW,
        "exp": NOW + 3600, "jti": JTI, "uid": "4711", "epoch": 0, "akid": b64(OKP_KID),
        "scope": b64(json.dumps(SCOPE, separators=(",", ":")).encode()),
    }
    if cnf is not None:
        body["cnf"] = cnf
    body.update(more)
    return body


def jwt(cnf, **more):
    body = claims(cnf, **more)
    head = {"alg": "EdDSA", "kid": b64(ISSUER_KID), "typ": "at+jwt"}
    text = b64(compact(head)) + "." + b64(compact(body))
    return {"token": text + "." + b64(ISSUER_KEY.sign(text.encode())), "claims": body}


def cwt_claims(cnf, more=()):
    body = {1: ISSUER, 2: "sensor-17", 3: BRIDGE, 4: NOW + 3600, 6: NOW, 7: CTI}
    if cnf is not None:
        body[8] = cnf
    body[9] = cbor2.dumps(SCOPE)
    body.update(dict(more))
    body["uid"] = 4711
    body["epoch"] = 0
    body["akid"] = b64(OKP_KID)
    return cbor2.dumps(body)


PROTECTED = cbor2.dumps({1: -8, 4: ISSUER_KID})


def sign1(payload, protected=PROTECTED, unprotected=None, key=ISSUER_KEY):
    tbs = cbor2.dumps(["Signature1", protected, b"", payload])
    return [protected, {} if unprotected is None else unprotected, payload, key.sign(tbs)]


def tagged(message, *tags):
    for tag in tags:
        message = cbor2.CBORTag(tag, message)
    return cbor2.dumps(message)


CNF = {1: OKP_COSE}
good = sign1(cwt_claims(CNF))

cwts = []


def cwt(name, source, token, want, jcnf=None, **extra):
    entry = {"name": name, "source": source, "token": token.hex(), "want": want}
    if want == "good":
        entry["claims"] = claims(jcnf, **extra)
    cwts.append(entry)


cwt("tags 61 and 18, cnf COSE_Key OKP", "RFC 8392 6, RFC 8747 3.2", tagged(good, 18, 61), "good", {"jwk": OKP_JWK})
cwt("tag 18", "RFC 9052 2", tagged(good, 18), "good", {"jwk": OKP_JWK})
cwt("no tag", "RFC 9052 2", tagged(good), "good", {"jwk": OKP_JWK})
cwt("cnf COSE_Key EC2", "RFC 8747 3.2", tagged(sign1(cwt_claims({1: EC_COSE})), 18), "good", {"jwk": EC_JWK})
cwt("cnf COSE_Key with kid and alg", "RFC 9052 7.1",
    tagged(sign1(cwt_claims({1: {1: 2, 2: b"\x11", 3: -7, -1: 1, -2: point[1:33], -3: point[33:]}})), 18), "good", {"jwk": EC_JWK})
cwt("cnf kid", "RFC 8747 3.4", tagged(sign1(cwt_claims({3: OKP_KID})), 18), "good", {"kid": b64(OKP_KID)})
cwt("cnf Encrypted_COSE_Key", "RFC 8747 3.3, RFC 9431 2.1", tagged(sign1(cwt_claims({2: cose_encrypt0()})), 18), "good",
    {"cose": b64(cbor2.dumps(cose_encrypt0()))})
cwt("cnonce", "RFC 9200 8.14", tagged(sign1(cwt_claims(CNF, {39: b"\x05\x06"})), 18), "good", {"jwk": OKP_JWK}, cnonce=b64(b"\x05\x06"))
cwt("kid in the unprotected header", "RFC 9052 3.1",
    tagged(sign1(cwt_claims(CNF), cbor2.dumps({1: -8}), {4: ISSUER_KID}), 18), "good", {"jwk": OKP_JWK})
cwt("without cnf", "a bearer token", tagged(sign1(cwt_claims(None)), 18), "good", None)

cwt("nbf in the future", "RFC 8392 3.1.5", tagged(sign1(cwt_claims(CNF, {5: NOW + 60})), 18), "DB-1011")
cwt("expired", "RFC 8392 3.1.4", tagged(sign1(cwt_claims(CNF, {4: NOW})), 18), "DB-1011")
cwt("signed by a stranger", "RFC 9052 4.4", tagged(sign1(cwt_claims(CNF), key=DEVICE_KEY), 18), "DB-1007")
cwt("kid of a stranger", "RFC 9052 3.1", tagged(sign1(cwt_claims(CNF), cbor2.dumps({1: -8, 4: OKP_KID})), 18), "DB-1007")
cwt("no kid", "ours", tagged(sign1(cwt_claims(CNF), cbor2.dumps({1: -8})), 18), "DB-1007")
cwt("alg ES256 with an Ed25519 key", "RFC 9052 3.1", tagged(sign1(cwt_claims(CNF), cbor2.dumps({1: -7, 4: ISSUER_KID})), 18), "DB-1007")
cwt("alg HMAC 256 over the public key", "algorithm confusion", tagged(sign1(cwt_claims(CNF), cbor2.dumps({1: 5, 4: ISSUER_KID})), 18), "DB-1007")
cwt("no alg", "RFC 9052 3.1", tagged(sign1(cwt_claims(CNF), cbor2.dumps({4: ISSUER_KID})), 18), "DB-1067")
cwt("no protected header", "RFC 9052 3", tagged(sign1(cwt_claims(CNF), b"", {1: -8, 4: ISSUER_KID}), 18), "DB-1067")
cwt("alg none by its number 0", "there is none in COSE", tagged(sign1(cwt_claims(CNF), cbor2.dumps({1: 0, 4: ISSUER_KID})), 18), "DB-1007")
cwt("alg as text none", "RFC 9052 3.1", tagged(sign1(cwt_claims(CNF), cbor2.dumps({1: "none", 4: ISSUER_KID})), 18), "DB-1007")
cwt("alg in the unprotected header as well", "RFC 9052 3", tagged(sign1(cwt_claims(CNF), unprotected={1: -8}), 18), "DB-1067")
cwt("crit", "RFC 9052 3.1", tagged(sign1(cwt_claims(CNF), cbor2.dumps({1: -8, 2: [4], 4: ISSUER_KID})), 18), "DB-1067")
cwt("crit that is not protected", "RFC 9052 3.1", tagged(sign1(cwt_claims(CNF), unprotected={2: [1]}), 18), "DB-1067")
cwt("an x5chain in the header", "RFC 9360 2", tagged(sign1(cwt_claims(CNF), unprotected={33: b"\x30"}), 18), "DB-1067")
cwt("kid in both headers", "RFC 9052 3", tagged(sign1(cwt_claims(CNF), unprotected={4: ISSUER_KID}), 18), "DB-1067")
cwt("bytes after the end", "RFC 8949 5.1", tagged(good, 18) + b"\x00", "DB-1067")
cwt("cut short", "RFC 8949 3", tagged(good, 18)[:-1], "DB-1067")
cwt("an array without length", "RFC 8949 4.1", b"\xd2\x9f" + b"".join(cbor2.dumps(x) for x in good) + b"\xff", "DB-1067")
cwt("a key twice in the protected header", "RFC 9052 3",
    tagged(sign1(cwt_claims(CNF), b"\xa3\x01\x27\x01\x27\x04" + cbor2.dumps(ISSUER_KID)), 18), "DB-1067")
cwt("a longer form in the protected header", "RFC 8949 4.1",
    tagged(sign1(cwt_claims(CNF), b"\xa2\x01\x38\x07\x04" + cbor2.dumps(ISSUER_KID)), 18), "DB-1067")
payload = cwt_claims(CNF)
assert payload[0] == 0xAB
cwt("a claim twice", "RFC 8392 3", tagged(sign1(b"\xac" + payload[1:] + b"\x01" + cbor2.dumps("https://evil.example")), 18), "DB-1067")
cwt("exp as text", "RFC 8392 2", tagged(sign1(cwt_claims(CNF, {4: "later"})), 18), "DB-1067")
cwt("exi", "RFC 9200 5.10.3: not served", tagged(sign1(cwt_claims(CNF, {40: 60})), 18), "DB-1067")
cwt("scope as text", "ours", tagged(sign1(cwt_claims(CNF, {9: "t1"})), 18), "DB-1067")
cwt("cnf with two keys", "RFC 8747 3.1", tagged(sign1(cwt_claims({1: OKP_COSE, 3: OKP_KID})), 18), "DB-1067")
cwt("cnf with an open symmetric key", "RFC 8747 3.3", tagged(sign1(cwt_claims({1: {1: 4, -1: HMAC_KEY}})), 18), "DB-1069")
cwt("cnf with a private key", "RFC 9053 7.2", tagged(sign1(cwt_claims({1: {**OKP_COSE, -4: bytes(32)}})), 18), "DB-1067")
cwt("cnf with a compressed point", "RFC 9053 7.1.1", tagged(sign1(cwt_claims({1: {**EC_COSE, -3: True}})), 18), "DB-1069")
cwt("cnf with a point off the curve", "RFC 9053 7.1.1", tagged(sign1(cwt_claims({1: {**EC_COSE, -3: bytes(32)}})), 18), "DB-1069")
cwt("cnf with X25519", "RFC 9053 7.2", tagged(sign1(cwt_claims({1: {1: 1, -1: 4, -2: okp_x}})), 18), "DB-1069")
cwt("COSE_Mac0", "RFC 9052 6.2", cbor2.dumps(cbor2.CBORTag(17, good)), "DB-1067")
cwt("COSE_Encrypt0", "RFC 8392 7.1: not served", cbor2.dumps(cbor2.CBORTag(16, cose_encrypt0())), "DB-1067")
cwt("tags the wrong way round", "RFC 8392 6", tagged(good, 61, 18), "DB-1067")

# --- proofs ------------------------------------------------------------------------------------

EXPORTER = bytes(range(32, 64))
RS_NONCE, C_NONCE = bytes(range(8)), bytes(range(8, 16))
pops = []
for kind, message in [("exporter", EXPORTER), ("nonces", RS_NONCE + C_NONCE)]:
    section = "RFC 9431 2.2.4.2.1" if kind == "exporter" else "RFC 9431 2.2.4.2.2"
    der, raw = ecdsa(message)
    mac = hmac.new(HMAC_KEY, message, hashlib.sha256).digest()
    signature = DEVICE_KEY.sign(message)
    for name, key, pop, ok in [
        ("HS256", "symmetric", mac, True),
        ("Ed25519", "okp", signature, True),
        ("ES256", "ec", raw, True),
        ("HS256 of 16 bytes", "symmetric", mac[:16], False),
        ("HMAC with SHA-512", "symmetric", hmac.new(HMAC_KEY, message, hashlib.sha512).digest(), False),
        ("MAC by the public key", "okp", hmac.new(okp_x, message, hashlib.sha256).digest(), False),
        ("MAC, where a signature is wanted", "ec", mac, False),
        ("signature, where a MAC is wanted", "symmetric", signature, False),
        ("ES256 in DER", "ec", der, False),
        ("ES256 with r = s = 0", "ec", bytes(64), False),
        ("Ed25519 over the hash", "okp", DEVICE_KEY.sign(hashlib.sha256(message).digest()), False),
        ("by another key", "okp", ISSUER_KEY.sign(message), False),
        ("over half of it", "okp", DEVICE_KEY.sign(message[: len(message) // 2]), False),
        ("nothing", "okp", b"", False),
    ]:
        pops.append({"name": f"{name}, {kind}", "source": f"{section}, RFC 9431 2.2.5", "key": key,
                     "input": message.hex(), "kind": kind, "pop": pop.hex(), "good": ok})

# --- authentication data -----------------------------------------------------------------------

token = jwt({"jwk": OKP_JWK})["token"].encode()
mac = hmac.new(HMAC_KEY, EXPORTER, hashlib.sha256).digest()
signature = DEVICE_KEY.sign(EXPORTER)
length = struct.pack(">H", len(token))
forms = [
    {"name": "1 with HS256", "source": "RFC 9431 2.2.4.2.1", "data": (length + token + mac).hex(), "form": "proof", "token": token.hex(), "pop": mac.hex()},
    {"name": "1 with Ed25519", "source": "RFC 9431 2.2.4.2.1", "data": (length + token + signature).hex(), "form": "proof", "token": token.hex(), "pop": signature.hex()},
    {"name": "2", "source": "RFC 9431 2.2.4.2.2", "data": (length + token).hex(), "form": "token", "token": token.hex()},
    {"name": "3, empty", "source": "RFC 9431 2.2.4.2", "data": "", "form": "stored"},
    {"name": "5 with Ed25519", "source": "RFC 9431 2.2.4.2.2", "data": (C_NONCE + signature).hex(), "form": "answer", "nonce": C_NONCE.hex(), "pop": signature.hex()},
    {"name": "5 with HS256", "source": "RFC 9431 2.2.4.2.2", "data": (C_NONCE + mac).hex(), "form": "answer", "nonce": C_NONCE.hex(), "pop": mac.hex()},
    {"name": "length in little endian", "source": "MQTT 5 1.5.2", "data": (length[::-1] + token).hex(), "form": "bad"},
    {"name": "length beyond the end", "source": "RFC 9431 2.2.4.2", "data": (struct.pack(">H", len(token) + 1) + token).hex(), "form": "bad"},
    {"name": "a proof with a length", "source": "RFC 9431 2.2.4.2.1", "data": (length + token + b"\x00\x20" + mac).hex(), "form": "bad"},
    {"name": "no token", "source": "RFC 9431 2.2.4.2", "data": "0000", "form": "bad"},
    {"name": "half a length", "source": "RFC 9431 2.2.4.2", "data": "00", "form": "bad"},
]
good_cwt = tagged(good, 18, 61)
user_names = [
    {"name": "a JWT, encoded", "source": "RFC 9431 6.1", "user_name": "ace" + b64(token), "token": token.hex(), "ours": True},
    {"name": "a CWT", "source": "RFC 9431 6.1", "user_name": "ace" + b64(good_cwt), "token": good_cwt.hex(), "ours": True},
    {"name": "a JWT as it is", "source": "ours", "user_name": "ace" + token.decode(), "token": token.hex(), "ours": False},
    {"name": "padded", "source": "RFC 9431 6.1", "user_name": "ace" + base64.urlsafe_b64encode(good_cwt + b"x" * (4 - len(good_cwt) % 3)).decode() + "=", "token": None, "ours": False},
    {"name": "ace alone", "source": "RFC 9431 6.1", "user_name": "ace", "token": None, "ours": False},
    {"name": "upper case", "source": "RFC 9431 6.1", "user_name": "ACE" + b64(token), "token": None, "ours": False},
]

# --- AIF, requests, answers --------------------------------------------------------------------

aif = [
    {"name": "the example of the RFC", "source": "RFC 9431 3", "json": SCOPE, "cbor": cbor2.dumps(SCOPE).hex(), "scope": b64(json.dumps(SCOPE, separators=(",", ":")).encode())},
    {"name": "nothing", "source": "RFC 9431 3.1", "json": [], "cbor": "80", "scope": "W10"},
]
aif_bad = [cbor2.dumps(x).hex() for x in [{}, [["t"]], [["t", "pub"]], [["t", [1]]], [[1, ["pub"]]], [["t", ["pub"], 1]], "t", [b"t", ["pub"]]]]

requests = [
    {"name": "the example of RFC 9201", "source": "RFC 9201 3.1, figure 1",
     "cbor": cbor2.dumps({4: {1: {1: 2, 2: b"\x11", -1: 1, -2: bytes.fromhex("BAC5B11CAD8F99F9C72B05CF4B9E26D244DC189F745228255A219A86D6A09EFF"), -3: bytes.fromhex("20138BF82DC1B6D562BE0FA54AB7804A3A64B6D72CCFED6B6FB6ED28BBFC117E")}}}).hex(),
     "params": {"grant_type": "client_credentials"},
     "key": {"crv": "P-256", "kty": "EC", "x": b64(bytes.fromhex("BAC5B11CAD8F99F9C72B05CF4B9E26D244DC189F745228255A219A86D6A09EFF")), "y": b64(bytes.fromhex("20138BF82DC1B6D562BE0FA54AB7804A3A64B6D72CCFED6B6FB6ED28BBFC117E"))}},
    {"name": "all of it", "source": "RFC 9200 5.8.1 and 5.8.5",
     "cbor": cbor2.dumps({33: 2, 5: BRIDGE, 9: cbor2.dumps(SCOPE), 4: {3: OKP_KID}, 38: None, 39: b"\x05\x06", 24: "sensor-17", 25: b"secret"}).hex(),
     "json": json.dumps({"grant_type": "client_credentials", "audience": BRIDGE, "scope": aif[0]["scope"], "req_cnf": {"kid": b64(OKP_KID)}, "ace_profile": "", "cnonce": b64(b"\x05\x06"), "client_id": "sensor-17", "client_secret": "secret"}),
     "params": {"grant_type": "client_credentials", "audience": BRIDGE, "scope": aif[0]["scope"], "client_id": "sensor-17", "client_secret": "secret"},
     "kid": b64(OKP_KID), "profile": "unknown", "cnonce": b64(b"\x05\x06")},
    {"name": "the least", "source": "RFC 9200 5.8.1", "cbor": "a0", "json": "{}", "params": {"grant_type": "client_credentials"}},
    {"name": "the profile by its number", "source": "RFC 9431 7.3", "cbor": cbor2.dumps({38: 3}).hex(), "json": '{"ace_profile":"mqtt_tls"}', "params": {"grant_type": "client_credentials"}, "profile": "mqtt_tls"},
    {"name": "another profile", "source": "RFC 9200 5.8.3", "cbor": cbor2.dumps({38: 1}).hex(), "json": '{"ace_profile":"coap_dtls"}', "fault": "DB-1073"},
    {"name": "the profile as text in CBOR", "source": "RFC 9200 5.8.4.3", "cbor": cbor2.dumps({38: "mqtt_tls"}).hex(), "fault": "DB-1067"},
    {"name": "a symmetric key of the client's", "source": "RFC 9201 3.1", "cbor": cbor2.dumps({4: {1: {1: 4, -1: HMAC_KEY}}}).hex(), "json": json.dumps({"req_cnf": {"jwk": {"kty": "oct", "k": b64(HMAC_KEY)}}}), "fault": "DB-1069"},
    {"name": "two keys", "source": "RFC 7800 3.1", "cbor": cbor2.dumps({4: {1: OKP_COSE, 3: OKP_KID}}).hex(), "json": json.dumps({"req_cnf": {"jwk": OKP_JWK, "kid": b64(OKP_KID)}}), "fault": "DB-1069"},
    {"name": "a member twice", "source": "RFC 6749 3.2", "cbor": "a2182221 182221".replace(" ", ""), "json": '{"scope":"W10","scope":"W10"}', "fault": "DB-1067"},
    {"name": "an empty cnonce", "source": "RFC 9200 5.3.1", "cbor": cbor2.dumps({39: b""}).hex(), "json": '{"cnonce":""}', "fault": "DB-1067"},
    {"name": "a number that is not known", "source": "ours: strict", "cbor": cbor2.dumps({99: 1}).hex(), "fault": "DB-1067"},
]
answers = [
    {"name": "a public key, the profile asked for, the broker's key", "source": "RFC 9200 5.8.2, RFC 9201 3.2",
     "profile": True, "symmetric": False, "broker": True,
     "cbor": cbor2.dumps({1: good_cwt, 2: 3600, 9: cbor2.dumps(SCOPE), 34: 2, 38: 3, 41: {1: EC_COSE}}).hex(),
     "json": {"access_token": b64(good_cwt), "token_type": "PoP", "expires_in": 3600, "scope": aif[0]["scope"], "ace_profile": "mqtt_tls", "rs_cnf": {"jwk": EC_JWK}}},
    {"name": "a symmetric key, beside which the broker's does not stand", "source": "RFC 9201 3.2",
     "profile": False, "symmetric": True, "broker": True,
     "cbor": cbor2.dumps({1: good_cwt, 2: 3600, 8: {1: {1: 4, 3: 5, -1: HMAC_KEY}}, 9: cbor2.dumps(SCOPE), 34: 2}).hex(),
     "json": {"access_token": b64(good_cwt), "token_type": "PoP", "expires_in": 3600, "scope": aif[0]["scope"], "cnf": {"jwk": {"alg": "HS256", "k": b64(HMAC_KEY), "kty": "oct"}}}},
]
numbers = ["invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
           "invalid_scope", "unsupported_pop_key", "incompatible_ace_profiles"]
errors = [{"error": name, "source": "RFC 9200 5.8.3, figure 10", "cbor": cbor2.dumps({30: n, 31: "why", "code": "DB-1069"}).hex()}
          for n, name in enumerate(numbers, 1)]
errors.append({"error": "temporarily_unavailable", "source": "ours: no number", "cbor": cbor2.dumps({30: 1, 31: "why", "code": "DB-1069"}).hex()})

print(json.dumps({
    "now_s": NOW, "issuer": ISSUER, "issuer_jwk": ISSUER_JWK, "issuer_kid": b64(ISSUER_KID), "secret": SECRET.hex(), "jti": JTI,
    "keys": {"okp": OKP_JWK, "ec": EC_JWK, "symmetric": HMAC_KEY.hex()},
    "cose_keys": [{"source": "RFC 9053 7.2", "jwk": OKP_JWK, "cose": cbor2.dumps(OKP_COSE).hex()},
                  {"source": "RFC 9053 7.1.1", "jwk": EC_JWK, "cose": cbor2.dumps(EC_COSE).hex()}],
    "sealed": {"source": "RFC 7516 5.1, RFC 9052 5.3; the key is ours", "nonce": NONCE.hex(), "jwe": jwe(), "cose": cbor2.dumps(cose_encrypt0()).hex()},
    "auth_data": forms, "user_names": user_names, "proofs": pops,
    "jwts": [
        {"name": "cnf jwk, Ed25519", "source": "RFC 7800 3.2", **jwt({"jwk": OKP_JWK})},
        {"name": "cnf jwk, P-256", "source": "RFC 7800 3.2", **jwt({"jwk": EC_JWK})},
        {"name": "cnf kid", "source": "RFC 7800 3.4", **jwt({"kid": b64(OKP_KID)})},
        {"name": "cnf jwe", "source": "RFC 7800 3.3, RFC 9431 2.1", **jwt({"jwe": jwe()})},
        {"name": "cnf jkt", "source": "RFC 9449 6.1", **jwt({"jkt": b64(OKP_KID)})},
        {"name": "cnonce", "source": "RFC 9200 8.14", **jwt({"kid": b64(OKP_KID)}, cnonce=b64(b"\x05\x06"))},
        {"name": "cnf with two keys", "source": "RFC 7800 3.1", "want": "DB-1008", **jwt({"jwk": OKP_JWK, "kid": b64(OKP_KID)})},
        {"name": "cnf with an open symmetric key", "source": "RFC 7800 3.3", "want": "DB-1008", **jwt({"jwk": {"kty": "oct", "k": b64(HMAC_KEY)}})},
        {"name": "cnf with an address of keys", "source": "RFC 7800 3.5: not served", "want": "DB-1008", **jwt({"jku": "https://evil.example/keys"})},
        {"name": "an empty cnf", "source": "RFC 7800 3.1", "want": "DB-1008", **jwt({})},
    ],
    "cwts": cwts, "aif": aif, "aif_bad": aif_bad, "requests": requests, "answers": answers, "errors": errors,
}, indent=1))
