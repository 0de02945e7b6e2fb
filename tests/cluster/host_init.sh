#!/bin/bash
# PID 1 of one host, until it has become its sshd: mounts the host's file system and moves into it.
# Called by namespace_hosts.py inside fresh mount, UTS, IPC and PID namespaces and the host's network namespace.
#
# NAME: the host's name; BASE: the root file system that all hosts share; DISK: the folder that keeps what this host
# writes; LOCAL: bytes of its local disk, /tmp; BINDS: lines "ro|rw SOURCE TARGET".
set -eu
root=$DISK/root
hostname "$NAME"
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$DISK/upper,workdir=$DISK/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o "mode=1777,size=$LOCAL" tmpfs "$root/tmp"
mkdir -p "$root/run/sshd" "$root/run/lock" "$root/run/munge"

# Devices of its own: a list, not the machine's folder. /dev/fuse is open to all, as on a cluster's nodes.
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229 loop-control:10:237; do
    IFS=: read -r node major minor <<<"$device"
    mknod -m 666 "$root/dev/$node" c "$major" "$minor"
done
for number in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    mknod -m 660 "$root/dev/loop$number" b 7 "$number"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"

while read -r how source target; do
    [ -n "$how" ] || continue
    if [ -d "$source" ]; then
        mkdir -p "$root$target"
    else
        mkdir -p "$(dirname "$root$target")" && touch "$root$target"
    fi
    mount --bind "$source" "$root$target"
    [ "$how" = rw ] || mount -o remount,bind,ro "$root$target"
done <<<"$BINDS"

# pivot_root, because no user namespace can be made inside a chroot.
cd "$root"
pivot_root . .old
umount -l /.old
# As PID 1, bash reaps whatever is orphaned; it has nothing else to do.
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TESTBED="$DISK" \
    /bin/bash -c '/usr/sbin/sshd -E /var/log/sshd.log; while :; do sleep 1000000 & wait; done'
