#!/bin/sh
# The first process of a lab's host; host.py starts it in namespaces of its own.
# Arguments: the host's folder on this machine, the layers of its file system, its name.
set -eu
folder=$1 layers=$2 name=$3
root=$folder/root

# Who reads this line plugs the host into the network, and then answers.
echo unshared
read -r _
exec >&2

mount -t overlay overlay -o "lowerdir=$layers,upperdir=$folder/upper,workdir=$folder/work" "$root"
if [ -d "$folder/site" ]; then
  tar -C "$folder/site" -cf - . | tar -C "$root" -xf - --no-overwrite-dir
  rm -r "$folder/site"
fi
hostname "$name"

mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm" "$root/run/sshd" "$root/run/lock"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
if [ -e "$folder/workspace.img" ]; then
  mkdir -p "$root/workspace"
  mount -o loop "$folder/workspace.img" "$root/workspace"
fi

# With a root of its own the host sees none of this machine's mounts.
mkdir -p "$root/.machine"
cd "$root"
pivot_root . .machine
cd /
umount -l /.machine
rmdir /.machine
exec </dev/null

if ! id operator >/dev/null 2>&1; then
  useradd --create-home --gid operator --password '*' --shell /bin/bash operator
  echo 'operator ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/operator
fi
# What Debian starts with the machine.
for service in supervisor cron; do
  [ ! -x "/etc/init.d/$service" ] || "/etc/init.d/$service" start || true
done
# One file of keys for all users: a host that begins with what another has become lets in its own lab alone.
/usr/sbin/sshd -o UsePAM=no -o AuthorizedKeysFile=/etc/ssh/lab_keys -E /var/log/sshd.log

# A first process must collect what others leave behind, which wait does.
while :; do
  sleep infinity &
  wait $! || true
done
