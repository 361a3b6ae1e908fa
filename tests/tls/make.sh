#!/usr/bin/env bash
# Makes the certificates that tests use: an authority, and two servers under it. They live for a hundred years, and
# nobody else trusts them. Needs openssl.
set -euo pipefail
cd "$(dirname "$0")"
new=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500)
openssl req -x509 "${new[@]}" -subj "/CN=Cloze test authority" -keyout authority-key.pem -out authority.pem \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
for name in server other; do
    openssl req -x509 "${new[@]}" -subj "/CN=Cloze test $name" -CA authority.pem -CAkey authority-key.pem \
        -keyout "$name-key.pem" -out "$name.pem" -addext basicConstraints=critical,CA:FALSE \
        -addext keyUsage=critical,digitalSignature -addext extendedKeyUsage=serverAuth \
        -addext "subjectAltName=DNS:localhost,IP:127.0.0.1"
done
# Nobody needs to sign with it again; the script makes a new one.
rm authority-key.pem
