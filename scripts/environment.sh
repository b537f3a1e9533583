# Sourced by the scripts beside it: makes a virtual environment ($venv) and installs this checkout into it.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }
fail() { local code=$1; shift; say "$*"; exit "$code"; }

venv=.venv
# Ansible overlooks the settings of a folder that everybody may write to, unless they are named.
export ANSIBLE_CONFIG=$PWD/ansible.cfg
oldest_minor=11

find_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c "import sys; sys.exit(sys.version_info < (3, $oldest_minor))" 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  fail 1 "Python 3.$oldest_minor or later is needed here, and $(python3 --version 2>&1 || true) is what was found:" \
    "install python3.$oldest_minor"
}

# apt_install PACKAGE...: as root installs them without starting a service, else names the command.
apt_install() {
  [ "$(id -u)" -eq 0 ] || fail 1 "$* is missing: run \`sudo apt-get install $*\` and start again"
  say "installing $* with apt-get"
  # While this file is there, Debian's packages start no service (policy-rc.d in Debian's policy manual).
  local policy=/usr/sbin/policy-rc.d ours="" rc=0
  if [ ! -e "$policy" ]; then
    ours=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  apt-get update -qq >&2 || rc=$?
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >&2 || rc=$?
  [ -z "$ours" ] || rm -f "$policy"
  return "$rc"
}

# make_venv EXTRAS: $venv with this project and the given extras, at the versions of constraints.txt.
make_venv() {
  local extras=$1 python stamp
  # shellcheck disable=SC2312 # a failing find_python has said why, and the empty name stops the next line
  python=$(find_python) || exit 1
  [[ $PWD =~ [^A-Za-z0-9._/@+-] ]] \
    && fail 2 "the path of this checkout, '$PWD', has a character other than letters, digits and . _ - @ + /: move it"
  stamp=$venv/.installed-$(cat pyproject.toml constraints.txt <(echo "$extras") | sha1sum | cut -c1-12)
  if [ -e "$stamp" ] && "$venv"/bin/python -c 'import ltxops' 2>/dev/null; then
    return
  fi
  "$python" -c 'import ensurepip' 2>/dev/null \
    || apt_install "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
  say "making $venv with $("$python" --version)"
  # A proxy's certificate is in the system's store, not in uv's own.
  export UV_SYSTEM_CERTS=1
  "$python" -m venv "$venv"
  "$venv"/bin/pip install --quiet --no-cache-dir --disable-pip-version-check uv --constraint constraints.txt
  "$venv"/bin/uv pip install --quiet --no-cache --python "$venv"/bin/python --constraint constraints.txt --editable ".[$extras]"
  rm -f "$venv"/.installed-*
  touch "$stamp"
}

# provision_with LOG ARGUMENT...: runs the playbook. ansible-playbook has exit codes of its own; when it fails, this
# ends with the one of ltxops that is in its message.
provision_with() {
  local log=$1 rc=0 code
  shift
  rm -f "$log"
  # Descriptor 9 is a caller's lock, which the programs that are started would hold for as long as they run.
  ANSIBLE_LOG_PATH=$log "$venv"/bin/ansible-playbook provision.yml "$@" 9>&- || rc=$?
  [ "$rc" -eq 0 ] && return
  code=$(grep -o 'ltxops exit [1-7]' "$log" | tail -n 1 | grep -o '[1-7]' || true)
  exit "${code:-$rc}"
}
