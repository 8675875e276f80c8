"""Logs in with Authlib's private_key_jwt, checks the token with PyJWT from the published keys alone.

Arguments: identity_folder https_host_port
"""

import json
import pathlib
import ssl
import sys
import time

import authlib
import jwt
import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey

folder, https = pathlib.Path(sys.argv[1]), sys.argv[2]
device = json.loads((folder / "device.json").read_text())
ca = str(folder / "ca.pem")
print("Authlib", authlib.__version__, "PyJWT", jwt.__version__, "requests", requests.__version__)
passed = 0


def check(what, holds):
    global passed
    if not holds:
        sys.exit(f"failed: {what}")
    passed += 1


metadata = requests.get(f"https://{https}/.well-known/oauth-authorization-server", verify=ca, timeout=20).json()
check("the issuer is the one of device.json", metadata["issuer"] == device["issuer"])
check("private_key_jwt is offered", "private_key_jwt" in metadata["token_endpoint_auth_methods_supported"])

session = OAuth2Session(
    device["device"],
    ECKey.import_key((folder / "key.pem").read_text()),  # text would be taken for an RSA key
    token_endpoint_auth_method="private_key_jwt",
)
session.verify, session.trust_env = ca, False  # this root and no other
# RFC 10070: the audience of the assertion is the issuer, not the token endpoint.
# Authlib's own hour of life is more than the 300 s that Drawbridge takes.
method = PrivateKeyJWT(metadata["issuer"], claims={"exp": int(time.time()) + 120}, alg="ES256")
session.register_client_auth_method(method)
token = session.fetch_token(f"https://{https}/oauth/token", grant_type="client_credentials")
check("an access token comes back", token["token_type"] == "Bearer" and token["expires_in"] > 0)

keys = jwt.PyJWKClient(f"https://{https}/oauth/jwks", ssl_context=ssl.create_default_context(cafile=ca))
key = keys.get_signing_key_from_jwt(token["access_token"])
claims = jwt.decode(
    token["access_token"],
    key.key,
    algorithms=["ES256"],
    issuer=device["issuer"],
    audience=device["bridge_audience"],
)
check("it is for this device", claims["sub"] == device["device"] and claims["client_id"] == device["device"])
check("it is typed", jwt.get_unverified_header(token["access_token"])["typ"] == "at+jwt")

me = requests.get(
    f"https://{https}/v1/self",
    headers={"Authorization": f"Bearer {token['access_token']}"},
    verify=ca,
    timeout=20,
)
check("the device reads its own record with it", me.status_code == 200 and me.json()["name"] == device["device"])
print(passed, "checks passed")
