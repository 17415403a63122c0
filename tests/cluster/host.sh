#!/usr/bin/env bash
# Becomes one host: runs as PID 1 of new PID, mount, UTS and IPC namespaces, in a network namespace of its own.
#   host.sh FOLDER NAME [KEEP ...]     KEEP: folders of the real machine that must stay to be seen, read-only
set -euo pipefail
folder=$1 name=$2
shift 2
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
for kept in "$@"; do
    mkdir -p "$folder/kept$kept"
    mount --bind "$kept" "$folder/kept$kept"
done
mkdir -p "$folder/tmp"
chmod 1777 "$folder/tmp"
chmod 700 "$folder/root"
for own in /root /run /tmp; do
    mount --rbind "$folder$own" "$own"
done
mount --bind "$folder/hosts" /etc/hosts
for kept in "$@"; do
    mkdir -p "$kept"
    mount --bind "$folder/kept$kept" "$kept"
    mount -o remount,bind,ro "$kept"
done
hostname "$name"
ip link set lo up
cd /
exec /usr/sbin/sshd -D -e -f /run/sshd_config
