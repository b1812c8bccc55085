# Becomes systemd as PID 1 of the namespaces in which `SystemdMachine` starts it. Its root is an
# overlay of /, of which it changes only the upper layer, in memory.
# Arguments: an empty folder, the repository, the folder of installed packages.
set -eu
work=$1 repository=$2 packages=$3
ip link set lo up

mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/internal" "$work/root"
root=$work/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/internal" "$root"

# As in a container: nothing here may change the kernel of the real machine.
mount -t proc proc "$root/proc"
mount -o bind,ro "$root/proc/sys" "$root/proc/sys"
if [ -e "$root/proc/sysrq-trigger" ]; then mount -o bind,ro /dev/null "$root/proc/sysrq-trigger"; fi
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
mkdir "$root/sys/fs/cgroup/systemd"
mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
for folder in run tmp var/log; do
    mount -t tmpfs tmpfs "$root/$folder"
done
mkdir "$root/run/host"
mount --bind "$work.notify" "$root/run/host"

mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/full" c 1 7
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o ptmxmode=666,newinstance devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"

# The services of this machine do not start; provider-agent's is the only one.
rm -rf "$root"/etc/systemd/system/*.wants/* "$root"/etc/rc*.d/S* "$root/etc/fstab"
rm -rf "$root"/etc/systemd/system/provider-agent.service* "$root/etc/provider-agent"
rm -rf "$root/var/lib/provider-agent" "$root/var/lib/private/provider-agent" "$root/opt/provider-agent"

mkdir -p "$root/opt/provider-agent/repository" "$root/opt/provider-agent/packages"
mount -o bind,ro "$repository" "$root/opt/provider-agent/repository"
mount -o bind,ro "$packages" "$root/opt/provider-agent/packages"

# /proc is still that of the machine: the parent of `cut` is this process.
cut -d ' ' -f 4 /proc/self/stat > "$work.pid"
export container=lxc NOTIFY_SOCKET=/run/host/notify
cd "$root"
exec setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-sys_boot chroot . \
    /lib/systemd/systemd --system --log-target=console --unit=basic.target
