#!/usr/bin/env bash
# Sets up a machine of a cluster; `ray up` runs it on every one. Idempotent: only differences are changed.
#   IRAE_STORE            URL of data sets and runs
#   AWS_REGION, AWS_ENDPOINT_URL  of the S3, if needed
#   IRAE_CACHE            folder of the shard cache, or nvme for the NVMe disk of an AWS instance
#   IRAE_VENV             the virtual environment; default ~/.irae/venv
set -euo pipefail
code=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${IRAE_VENV:-$HOME/.irae/venv}
settings=$HOME/.irae_env

install_packages() {
    if [ ! -x "$venv/bin/python" ]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || {
            sudo apt-get -o DPkg::Lock::Timeout=300 -q update
            sudo apt-get -o DPkg::Lock::Timeout=300 -q install -y python3-venv
        }
        python3 -m venv "$venv"
    fi
    (cd "$code" && "$venv/bin/python" -m infra.versions >/dev/null 2>&1) && return
    "$venv/bin/pip" install -q "$(grep '^torch==' "$code/constraints.txt")" -c "$code/constraints.txt"
    "$venv/bin/pip" install -q -e "$code[s3,cluster]" -c "$code/constraints.txt"
}

# Formats and mounts the NVMe disk of an AWS instance, if needed. Prints a folder on it, if there is one.
nvme_folder() {
    local mounted=/opt/dlami/nvme disk  # by AWS's Deep Learning images
    if ! mountpoint -q "$mounted"; then
        mounted=/mnt/nvme
        disk=$(lsblk -dno PATH,MODEL | awk '/EC2 NVMe Instance Storage/ {print $1; exit}')
        [ -n "$disk" ] || return 0
        sudo mkdir -p "$mounted"
        sudo blkid "$disk" >/dev/null || sudo mkfs.ext4 -q "$disk"
        mountpoint -q "$mounted" || sudo mount "$disk" "$mounted"
    fi
    sudo install -d -o "$(id -u)" -g "$(id -g)" "$mounted/irae"
    echo "$mounted/irae"
}

cache=${IRAE_CACHE:-}
[ "$cache" != nvme ] || cache=$(nvme_folder)
cache=${cache:-$HOME/.cache/irae}
mkdir -p "$cache"
install_packages
{
    printf 'export PATH=%q:$PATH\n' "$venv/bin"
    printf 'export PYTHONPATH=%q\n' "$code"
    printf 'export IRAE_CACHE=%q\n' "$cache"
    for name in IRAE_STORE AWS_REGION AWS_ENDPOINT_URL; do
        [ -z "${!name:-}" ] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    [ -z "${AWS_REGION:-}" ] || printf 'export AWS_DEFAULT_REGION=%q\n' "$AWS_REGION"
    cat "$code/infra/node_env.sh"
} >"$settings.new"
mv "$settings.new" "$settings"
# At the top: many a .bashrc returns early in non-interactive shells.
grep -q irae_env ~/.bashrc 2>/dev/null || printf '%s\n%s\n' '. ~/.irae_env' "$(cat ~/.bashrc 2>/dev/null)" >~/.bashrc
