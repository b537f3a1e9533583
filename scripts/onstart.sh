#!/usr/bin/env bash
# The on-start script of a container template: provisions the container it runs in, without a control machine.
# Safe at every start. Nothing to do: looks whether all is well, in seconds. Failed: the reason ends its log.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh

# Platforms keep the template's variables in these files; what is set already wins.
take_up() {
  local file=$1 line name
  [ -f "$file" ] || return 0
  while IFS= read -r line; do
    [[ $line =~ ^(export\ +)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] || continue
    name=${BASH_REMATCH[2]}
    [ -n "${!name+set}" ] || export "$name=$(sed -E "s/^(['\"])(.*)\1$/\2/" <<<"${BASH_REMATCH[3]}")"
  done <"$file"
}
take_up /etc/environment
export WORKSPACE=${WORKSPACE:-/workspace}
take_up "$WORKSPACE/.env"

home=/opt/ltxops etc=/etc/ltxops state=/var/lib/ltxops
venv=$home/control
oldest_minor=10
ltxops=$home/venv/bin/ltxops
mkdir -p "$home" "$state" "$WORKSPACE/logs"
log=$WORKSPACE/logs/onstart.log
exec > >(tee -a "$log") 2>&1
exec 9>"$state/onstart.lock"
flock --nonblock 9 || fail 6 "onstart: another run holds $state/onstart.lock"

# The variables that inventory/container takes up, and this script itself.
variables='WORKSPACE=|LTXOPS_|HF_|S3_|WEBHOOK_URL=|SERVERLESS=|PYWORKER_|BACKEND=|WORKER_PORT=|REPORT_ADDR=|USE_SSL='
variables+='|CONTAINER_ID=|PUBLIC_IPADDR=|VAST_TCP_PORT_|MASTER_TOKEN=|UNSECURED='

# Everything that decides what the container becomes: this checkout, the settings, the environment.
fingerprint() {
  {
    find . \( -name .git -o -name .test -o -name .venv -o -name .build -o -name .demo -o -name __pycache__ \) -prune -o -type f -print0 \
      | sort -z | xargs -0 sha1sum
    env | grep -E "^($variables)" | sort
    [ -z "${LTXOPS_SETTINGS:-}" ] || cat "$LTXOPS_SETTINGS"
  } | sha1sum | cut -c1-40
}

# The settings that the last run described the host by, as assignments of shell variables.
settings() {
  "$home/venv/bin/python" - "$etc/host.json" <<'PYTHON'
import json, shlex, sys
host = json.load(open(sys.argv[1]))
for name in ("models_profile", "models_root", "token_file", "url"):
    print(f"{name}={shlex.quote(host[name])}")
PYTHON
}

# Without the lock's descriptor, which would be held for as long as the programs run, and without the secrets in
# this script's environment, which are no business of ComfyUI's.
start_supervisord() {
  local old
  # One that is still stopping its programs refuses every call, and holds the socket until it has ended.
  old=$(cat /run/supervisord.pid 2>/dev/null || true)
  if grep -qs supervisord "/proc/${old:-none}/cmdline"; then
    timeout 120 tail --pid="$old" -f /dev/null || return 1
  fi
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME="$state" \
    supervisord -c /etc/supervisor/supervisord.conf 9>&-
}

# The programs may be down because the container was started again; everything else must be as it was left.
# Says in $reason what is not.
nothing_to_do() {
  local models_profile models_root token_file url described
  reason="this is the first start, the last one failed, or settings have changed"
  [ "$(cat "$state/onstart.stamp" 2>/dev/null)" = "$1" ] || return 1
  reason="the description of this host, $etc/host.json, cannot be read"
  described=$(settings) || return 1
  eval "$described"
  reason="a model file is missing or has changed"
  "$ltxops" models verify --manifest "$etc/models/models.yaml" --profile "$models_profile" --root "$models_root" \
    >/dev/null || return 1
  reason="supervisord does not start"
  supervisorctl pid >/dev/null 2>&1 || start_supervisord || return 1
  reason="a program does not become well"
  "$ltxops" services wait --config "$etc/host.json" --timeout 300 || return 1
  reason="the check through the gateway failed"
  "$ltxops" smoke --url "$url" ${token_file:+--token-file "$token_file"} --case check \
    --out "$state/smoke/latest" >/dev/null
}

provision() {
  local settings=()
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  make_venv control
  if [ -n "${LTXOPS_TOKEN+set}" ]; then
    # By a file: an argument could be read by every process.
    "$venv/bin/python" -c 'import json, os; print(json.dumps({"gateway_token": os.environ["LTXOPS_TOKEN"]}))' \
      >"$scratch/token.json"
    settings+=(-e "@$scratch/token.json")
  fi
  [ -z "${LTXOPS_SETTINGS:-}" ] || settings+=(-e "@$LTXOPS_SETTINGS")
  provision_with "$scratch/log" -i inventory/container "${settings[@]}"
}

say "onstart: $(date -u +%FT%TZ) in $PWD, workspace $WORKSPACE"
print=$(fingerprint)
if nothing_to_do "$print"; then
  say "onstart: nothing to do, every program answers"
  exit 0
fi
say "onstart: provisioning, because $reason"
rm -f "$state/onstart.stamp"
provision
echo "$print" >"$state/onstart.stamp"
eval "$(settings)"
# shellcheck disable=SC2154 # one of the settings
say "onstart: provisioned and proven, $url"
