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

# Everything that decides what the container becomes: this checkout, the settings, the environment.
fingerprint() {
  {
    find . \( -name .git -o -name .venv -o -name .build -o -name .demo -o -name __pycache__ \) -prune -o -type f -print0 \
      | sort -z | xargs -0 sha1sum
    env | grep -E '^(WORKSPACE|HF_|S3_|WEBHOOK_|PYWORKER_|LTXOPS_|SERVERLESS|CONTAINER_|VAST_|PUBLIC_)' | sort
    [ -z "${LTXOPS_SETTINGS:-}" ] || cat "$LTXOPS_SETTINGS"
  } | sha1sum | cut -c1-40
}

setting() { "$home/venv/bin/python" -c "import json, sys; print(json.load(open('$etc/host.json'))['$1'])"; }

# The programs may be down because the container was started again; everything else must be as it was left.
nothing_to_do() {
  [ "$(cat "$state/onstart.stamp" 2>/dev/null)" = "$1" ] || return 1
  "$ltxops" models verify --manifest "$etc/models/models.yaml" --profile "$(cat "$state/onstart.profile")" \
    --root "$WORKSPACE/ComfyUI/models" >/dev/null || return 1
  # Without the lock's descriptor, which would else be held for as long as the programs run.
  supervisorctl pid >/dev/null 2>&1 || supervisord -c /etc/supervisor/supervisord.conf 9>&- || return 1
  "$ltxops" services wait --config "$etc/host.json" --timeout 300 || return 1
  "$ltxops" smoke --url "$(setting url)" --token-file "$(setting token_file)" --case check \
    --out "$state/smoke/latest" >/dev/null
}

provision() {
  local playbook_log rc=0 code settings=()
  playbook_log=$(mktemp)
  [ -z "${LTXOPS_SETTINGS:-}" ] || settings=(-e "@$LTXOPS_SETTINGS")
  make_venv control
  ANSIBLE_LOG_PATH=$playbook_log "$venv/bin/ansible-playbook" -i inventory/container provision.yml "${settings[@]}" \
    9>&- || rc=$?
  code=$(grep -o 'ltxops exit [1-7]' "$playbook_log" | tail -n 1 | grep -o '[1-7]' || true)
  rm -f "$playbook_log"
  [ "$rc" -eq 0 ] || exit "${code:-$rc}"
}

say "onstart: $(date -u +%FT%TZ) in $PWD, workspace $WORKSPACE"
print=$(fingerprint)
if nothing_to_do "$print"; then
  say "onstart: nothing to do, every program answers"
  exit 0
fi
rm -f "$state/onstart.stamp"
provision
echo "${LTXOPS_PROFILE:-vast}" >"$state/onstart.profile"
echo "$print" >"$state/onstart.stamp"
say "onstart: provisioned and proven, $(setting url)"
