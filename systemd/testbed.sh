#!/bin/bash
# Boots a real systemd to try unit files in, on a machine whose own PID 1 may be
# something else: new pid, mount, cgroup, uts, ipc and network namespaces, an
# overlay over the machine's own root (or over a root file system in a
# directory), a cgroup2 mount of its own, and systemd as PID 1 of it all.
# Nothing is written to the lower layer, and `down` leaves nothing behind.
# Several beds may run at once, each with a name.
#
# Needs root, a kernel with overlayfs and cgroup2, and systemd and dbus in the
# lower layer; polkitd as well to try D-Bus calls of unprivileged users.
#
# usage: testbed.sh up   [-n NAME] [-r ROOTFS] [-b SRC:DST[:ro]].. [--host-net]
#        testbed.sh exec [-n NAME] COMMAND ARGUMENT..   status is the command's
#        testbed.sh push [-n NAME] SRC DST              copy into the bed
#        testbed.sh root [-n NAME]                      print where its root is
#        testbed.sh down [-n NAME]
#
# Limits: MemoryMax=, TasksMax= and CPUQuota= are accepted and, where the
# machine has those controllers on cgroup v1, not enforced. There is no udev, no
# getty and no kernel log.
set -euo pipefail

STATE=${SIGNET_TESTBED_STATE:-/run/signet-testbed}
NAME=bed
ROOT=/
NETNS=--net
BINDS=()

die() {
	echo "testbed: $*" >&2
	exit 1
}

# parse leaves what is no option in ARGS.
parse() {
	while [ $# -gt 0 ]; do
		case $1 in
		-n) NAME=$2; shift 2 ;;
		-r) ROOT=$2; shift 2 ;;
		-b) BINDS+=("$2"); shift 2 ;;
		--host-net) NETNS=; shift ;;
		--) shift; break ;;
		-*) die "unknown option $1" ;;
		*) break ;;
		esac
	done
	ARGS=("$@")
	DIR=$STATE/$NAME
}

pid() {
	[ -s "$DIR/pid" ] && kill -0 "$(cat "$DIR/pid")" 2>/dev/null && cat "$DIR/pid" || die "bed $NAME is not up"
}

# mount_api mounts what a system expects of its kernel. /proc/sys and /sys are
# read-only, or the bed would change the whole machine.
mount_api() {
	local root=$1 dev
	mkdir -p "$root"/{proc,sys,dev,run,tmp}
	mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
	mount --bind "$root/proc/sys" "$root/proc/sys"
	mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc/sys"
	mount -t sysfs -o nosuid,nodev,noexec,ro sysfs "$root/sys"
	mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
	mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
	mkdir "$root/dev/pts" "$root/dev/shm"
	for dev in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
		IFS=: read -r name major minor <<<"$dev"
		mknod -m 666 "$root/dev/$name" c "$major" "$minor"
	done
	ln -s /proc/self/fd "$root/dev/fd"
	ln -s fd/0 "$root/dev/stdin"
	ln -s fd/1 "$root/dev/stdout"
	ln -s fd/2 "$root/dev/stderr"
	mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
	ln -s pts/ptmx "$root/dev/ptmx"
	mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
	mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
}

# quiet_units masks what would act on the machine, or only costs time, and makes
# the target that the bed boots to.
quiet_units() {
	local root=$1 unit units=$1/run/systemd/system
	mkdir -p "$units" "$root/run/systemd/journald.conf.d"
	cat >"$root/run/systemd/journald.conf.d/00-testbed.conf" <<-'END'
		[Journal]
		Audit=no
		ReadKMsg=no
		ForwardToWall=no
		RateLimitIntervalSec=0
	END
	cat >"$units/testbed.target" <<-'END'
		[Unit]
		Description=Test bed
		Requires=basic.target dbus.socket
		Wants=systemd-user-sessions.service systemd-logind.service
		After=basic.target
		AllowIsolate=yes
	END
	for unit in systemd-sysctl.service systemd-modules-load.service systemd-update-utmp.service \
		systemd-timesyncd.service systemd-networkd.service systemd-resolved.service \
		systemd-journald-audit.socket dev-hugepages.mount sys-kernel-debug.mount \
		sys-kernel-tracing.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount \
		apt-daily.timer apt-daily-upgrade.timer fstrim.timer man-db.timer e2scrub_all.timer \
		logrotate.timer dpkg-db-backup.timer machines.target; do
		ln -sf /dev/null "$root/etc/systemd/system/$unit"
	done
}

# inner runs in the new namespaces and ends as systemd.
inner() {
	local root=$DIR/root bind src dst mode
	[ -z "$NETNS" ] || ip link set lo up 2>/dev/null || true
	mount -t tmpfs -o mode=755 testbed "$DIR/ovl"
	mkdir -p "$DIR/ovl/up" "$DIR/ovl/wk"
	mount -t overlay testbed -o "lowerdir=$ROOT,upperdir=$DIR/ovl/up,workdir=$DIR/ovl/wk" "$root"
	mount_api "$root"
	tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
	# The journal is a volatile one; packages may start their services.
	rm -rf "$root/var/log/journal" "$root/usr/sbin/policy-rc.d"
	for bind in "${BINDS[@]}"; do
		IFS=: read -r src dst mode <<<"$bind"
		if [ -d "$src" ]; then
			mkdir -p "$root$dst"
		else
			mkdir -p "$(dirname "$root$dst")"
			: >>"$root$dst"
		fi
		mount --bind "$src" "$root$dst"
		[ "${mode:-rw}" = rw ] || mount -o remount,bind,ro "$root$dst"
	done
	quiet_units "$root"
	rm -f "$root/etc/fstab"
	: >"$root/etc/fstab"
	hostname "testbed-$NAME"
	cd "$root"
	mkdir -p .old
	pivot_root . .old
	umount -l /.old
	rmdir /.old
	# A systemd in a container does not do this, and without it the directories
	# of LoadCredential= stay empty.
	mount --make-rshared /
	exec env -i container=testbed PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		/lib/systemd/systemd --system --unit=testbed.target --show-status=no </dev/null >/dev/null 2>&1
}

# start runs inner and waits until systemd has taken its place. The cgroup is
# joined first, so that it is the root of the new cgroup namespace.
start() {
	local cgroup=$1 parent child i
	export TESTBED_INNER=1 SIGNET_TESTBED_STATE=$STATE
	setsid bash -c 'echo $$ >"$1/cgroup.procs"; shift; exec unshare --fork --kill-child --pid --mount --cgroup --uts --ipc '"$NETNS"' "$@"' \
		x "$cgroup" "$0" up -n "$NAME" -r "$ROOT" ${NETNS:-x} "${BINDS[@]}" </dev/null >"$DIR/log" 2>&1 &
	parent=$!
	for ((i = 0; i < 300; i++)); do
		child=$(pgrep -P "$parent" | head -1 || true)
		if [ -n "$child" ] && [ "$(cat "/proc/$child/comm" 2>/dev/null)" = systemd ]; then
			echo "$child" >"$DIR/pid"
			return
		fi
		kill -0 "$parent" 2>/dev/null || break
		sleep 0.05
	done
	cat "$DIR/log" >&2
	die "systemd did not start"
}

up() {
	local cgroup i state=
	[ "$(id -u)" = 0 ] || die "needs root"
	! (pid) >/dev/null 2>&1 || die "bed $NAME is already up"
	mkdir -p "$DIR/ovl" "$DIR/root"
	cgroup=$(findmnt -n -t cgroup2 -o TARGET | head -1)
	if [ -z "$cgroup" ]; then
		cgroup=$DIR/cg
		mkdir -p "$cgroup"
		mount -t cgroup2 cgroup2 "$cgroup"
	fi
	cgroup=$cgroup/signet-testbed-$NAME
	mkdir -p "$cgroup"
	echo "$cgroup" >"$DIR/cgroup"
	start "$cgroup"
	for ((i = 0; i < 600; i++)); do
		state=$(enter systemctl is-system-running 2>/dev/null || true)
		case $state in
		running | degraded)
			echo "bed $NAME: pid $(cat "$DIR/pid"), $state"
			return
			;;
		esac
		sleep 0.1
	done
	die "bed $NAME is $state after a minute"
}

# enter runs a command in the bed.
enter() {
	nsenter -t "$(pid)" -m -p -C -u -i -n -r -w env -i HOME=/root LANG=C.UTF-8 TERM=dumb \
		SYSTEMD_COLORS=0 SYSTEMD_PAGER= PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# gone waits a while for a process to end.
gone() {
	local i
	for ((i = 0; i < $2; i++)); do
		[ -d "/proc/$1" ] || return 0
		sleep 0.1
	done
	return 1
}

down() {
	local pid cgroup i
	pid=$(cat "$DIR/pid" 2>/dev/null || true)
	if [ -n "$pid" ] && [ -d "/proc/$pid" ]; then
		kill -s RTMIN+3 "$pid" || true # halt.target
		gone "$pid" 100 || { kill -9 "$pid"; gone "$pid" 50; } || true
	fi
	cgroup=$(cat "$DIR/cgroup" 2>/dev/null || true)
	for ((i = 0; i < 50; i++)); do # a process that ends may hold it for a moment
		[ -n "$cgroup" ] && [ -d "$cgroup" ] || break
		find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true
		[ ! -d "$cgroup" ] || sleep 0.1
	done
	mountpoint -q "$DIR/cg" 2>/dev/null && umount "$DIR/cg"
	rm -rf "$DIR/pid" "$DIR/cgroup" "$DIR/log"
	rmdir "$DIR/cg" "$DIR/ovl" "$DIR/root" "$DIR" "$STATE" 2>/dev/null || true
}

command=${1:-}
shift || true
if [ "$command" = up ] && [ "${TESTBED_INNER:-}" = 1 ]; then
	unset TESTBED_INNER
	NAME=$2
	ROOT=$4
	[ "$5" = --net ] || NETNS=
	shift 5
	BINDS=("$@")
	DIR=$STATE/$NAME
	inner
fi
parse "$@"
case $command in
up) up ;;
exec) enter "${ARGS[@]}" ;;
push) cp -a "${ARGS[0]}" "/proc/$(pid)/root${ARGS[1]}" ;;
root) echo "/proc/$(pid)/root" ;;
down) down ;;
*)
	sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
	exit 2
	;;
esac
