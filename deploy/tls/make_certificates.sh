#!/bin/sh
# A private authority and the certificates of both ends, for mTLS between reeltint's client and Triton.
#
#   deploy/tls/make_certificates.sh FOLDER NAME...
#
# FOLDER gets ca.pem, ca.key, server.pem, server.key, client.pem, client.key; an authority that is there already is used
# again, so that a second run renews the other two. NAME: what clients connect to, host names or IP addresses; localhost
# and 127.0.0.1 are added. Days of validity: CA_DAYS (3650) and DAYS (397). Keep ca.key off the servers.
set -eu
[ $# -ge 1 ] || { sed -n '4s/^# *//p' "$0" >&2; exit 2; }
folder=$1; shift
umask 077
mkdir -p "$folder"
cd "$folder"

names=DNS:localhost,IP:127.0.0.1
for name; do
  case $name in
    *:*) names=$names,IP:$name ;;
    *[!0-9.]*) names=$names,DNS:$name ;;
    *) names=$names,IP:$name ;;
  esac
done

key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null ||
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

if [ ! -s ca.key ]; then
  key ca.key
  openssl req -x509 -new -key ca.key -sha256 -days "${CA_DAYS:-3650}" -subj "/CN=reeltint authority" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" -out ca.pem
fi

sign() { # NAME EXTENSIONS: NAME.key and NAME.pem, signed by the authority
  key "$1.key"
  printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n%s\n' "$2" >"$1.ext"
  openssl req -new -key "$1.key" -subj "/CN=reeltint $1" |
    openssl x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -sha256 -days "${DAYS:-397}" -extfile "$1.ext" \
      -out "$1.pem" 2>"$1.log" || { cat "$1.log" >&2; exit 1; }
  rm -f "$1.ext" "$1.log"
}

sign server "$(printf 'extendedKeyUsage=serverAuth\nsubjectAltName=%s' "$names")"
sign client extendedKeyUsage=clientAuth
chmod 644 ./*.pem
echo "$folder: ca, server ($names), client"
