# Turns the namespaces it runs in into a host of its own and becomes systemd: $1 = an empty folder, $2 = one to share.
# The root is an overlay over this host's: what is done there is gone with it.
set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"

mount -t proc proc proc
# Of the kernel's settings, those of the network are this host's own; the others are everybody's.
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
ln -s /proc/self/fd dev/fd
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/share old
mount --bind "$2" run/share

# A host as it comes: nothing enabled, services may be started, the servers in resolv.conf.
rm -rf etc/systemd/system usr/sbin/policy-rc.d etc/resolv.conf
mkdir etc/systemd/system
echo "nameserver 127.0.0.9" >etc/resolv.conf

pivot_root . old
umount -l /old
# Credentials of units reach them through mounts that systemd makes elsewhere.
mount --make-rshared /
# What could reach beyond the namespaces is given up, as in any container.
forbidden=-sys_module,-sys_boot,-sys_time,-sys_rawio,-mac_admin,-mac_override,-syslog,-wake_alarm,-block_suspend,-audit_control
exec env -i container=har PATH=/usr/sbin:/usr/bin:/sbin:/bin setpriv --bounding-set "$forbidden" \
    /lib/systemd/systemd --system --unit=basic.target --log-target=journal --show-status=0
