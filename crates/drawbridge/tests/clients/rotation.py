"""PyJWT's PyJWKClient, which keeps the JWK set, goes on while the issuer's key is rotated. For each line on standard
input (a file with a token): whether it verifies.

Argument: a JSON file (see e2e/interop.rs)
"""

import json
import pathlib
import ssl
import sys

import jwt

world = json.loads(pathlib.Path(sys.argv[1]).read_text())
print("PyJWT", jwt.__version__, flush=True)
# It keeps the set for 2 s, and reads it at most every 30 s for a key that it does not know.
keys = jwt.PyJWKClient(
    world["issuer"] + "/oauth/jwks", lifespan=2, ssl_context=ssl.create_default_context(cafile=world["ca"])
)
for line in sys.stdin:
    token = pathlib.Path(line.strip()).read_text().strip()
    try:
        key = keys.get_signing_key_from_jwt(token)
        header = jwt.get_unverified_header(token)
        jwt.decode(
            token, key.key, algorithms=["ES256", "RS256", "EdDSA"], issuer=world["issuer"],
            audience=world["bridge_audience"],
        )  # fmt: skip
        print("good", header["alg"], header["kid"], flush=True)
    except jwt.PyJWTError as error:
        print("bad", type(error).__name__, flush=True)
