"""A device replaces its own key: one JWT by the old key names the new one, one JWT by the new key
proves that the device has it. Stock PyJWT, cryptography and the standard library.

    python3 replace_key.py IDENTITY_FOLDER

The new key is stored before it is sent: if the answer is lost, run it again, nothing is lost.
Afterwards key.pem is the new key and old-key.pem the one it replaced.
"""

import base64
import hashlib
import json
import pathlib
import ssl
import sys
import time
import urllib.request
import uuid

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

folder = pathlib.Path(sys.argv[1])
device = json.loads((folder / "device.json").read_text())
old_pem = (folder / "key.pem").read_bytes()

new_path = folder / "new-key.pem"
if new_path.exists():  # an earlier run was cut off: go on with its key
    new_key = serialization.load_pem_private_key(new_path.read_bytes(), None)
else:
    new_key = ec.generate_private_key(ec.SECP256R1())
    new_path.touch(mode=0o600)
    new_path.write_bytes(
        new_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(new_key.public_key()))
jwk = {name: jwk[name] for name in ("kty", "crv", "x", "y")}

now = int(time.time())
name, issuer = device["device"], device["issuer"]
update = jwt.encode(
    {
        "iss": name,
        "sub": name,
        "aud": issuer,
        "iat": now,
        "exp": now + 60,
        "jti": uuid.uuid4().hex,
        "cnf": {"jwk": jwk},
    },
    old_pem,
    algorithm="ES256",
    headers={"typ": "key-update+jwt"},
)
digest = hashlib.sha256(update.encode()).digest()
pop = jwt.encode(
    {
        "aud": issuer,
        "iat": now,
        "exp": now + 60,
        "jti": uuid.uuid4().hex,
        "upd": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
    },
    new_key,
    algorithm="ES256",
    headers={"typ": "key-pop+jwt", "jwk": jwk},
)
request = urllib.request.Request(
    f"https://{device['https']}/v1/self/keys",
    data=json.dumps({"update": update, "pop": pop, "retire": "old"}).encode(),
    headers={"Content-Type": "application/json"},
)
tls = ssl.create_default_context(cafile=str(folder / "ca.pem"))
with urllib.request.urlopen(request, context=tls) as answer:
    print(answer.status, json.load(answer)["kid"])

(folder / "key.pem").rename(folder / "old-key.pem")
new_path.rename(folder / "key.pem")
