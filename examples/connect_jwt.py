"""Signs the JWT that a device puts into the password of CONNECT, with stock PyJWT.

    python3 connect_jwt.py IDENTITY_FOLDER [LIFE_S]

IDENTITY_FOLDER is what `drawbridge device add ID --out DIR` wrote: key.pem, ca.pem, device.json.
"""

import json
import pathlib
import sys
import time

import jwt

folder = pathlib.Path(sys.argv[1])
life_s = int(sys.argv[2]) if len(sys.argv) > 2 else 3600
device = json.loads((folder / "device.json").read_text())
now = int(time.time())
claims = {"sub": device["device"], "aud": device["bridge_audience"], "iat": now, "exp": now + life_s}
print(jwt.encode(claims, (folder / "key.pem").read_text(), algorithm="ES256"))
