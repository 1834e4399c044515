# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Virtual machines with Soft-RoCE, for tests of real verbs without a card. A
# machine boots Debian's own kernel in software (no KVM is needed), has the
# root file system of this one below it (its writes stay in its memory) and a
# folder to share, and runs guest.sh there.
#
# The kernel and an initial RAM disk are kept below ${XDG_CACHE_HOME}/kvfs-rdma.
#
# What it does not show: speed, DMA, memory windows' bounds (Soft-RoCE looks at
# those of the region), other drivers.
set -euo pipefail

packages='qemu-system-x86 busybox-static cpio kmod iproute2 ibverbs-providers'
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kvfs-rdma
modules='virtio_pci virtio_net 9pnet_virtio 9p overlay crc32_generic rdma_rxe
	rdma_ucm ib_uverbs fuse iptable_filter xt_tcpudp vgem'

skip() {
	echo "SKIP: $*"
	exit 77
}

fail() {
	echo "FAIL: $*"
	exit 1
}

fetch_kernel() {
	local name deb dir=$cache/fetch.$$
	name=$(apt-cache depends linux-image-amd64 2>/dev/null |
		awk '/Depends: linux-image-/ { print $2; exit }')
	[ -n "$name" ] || return 1
	mkdir -p "$dir"
	(cd "$dir" && apt-get -qq download "$name") >/dev/null 2>&1 || return 1
	deb=$(echo "$dir"/*.deb)
	mkdir "$dir/kernel"
	dpkg --fsys-tarfile "$deb" | tar -x -C "$dir/kernel" ./boot ./lib
	rm -f "$deb"
	mv -T "$dir/kernel" "$cache/kernel" 2>/dev/null || [ -d "$cache/kernel" ]
	rm -rf "$dir"
}

init_script() {
	cat <<-EOF
		#!/bin/sh
		export PATH=/bin
		mount -t proc proc /proc
		mount -t sysfs sys /sys
		mount -t devtmpfs dev /dev
		for m in $(echo $modules); do modprobe \$m; done
		mkdir -p /ro
		mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /ro
		mount -t tmpfs tmpfs /rw
		mkdir -p /rw/u /rw/w
		mount -t overlay -o lowerdir=/ro,upperdir=/rw/u,workdir=/rw/w overlay /newroot
		for d in run tmp; do mkdir -p /newroot/\$d; mount -t tmpfs tmpfs /newroot/\$d; done
		for d in proc sys dev; do mount --move /\$d /newroot/\$d; done
		mkdir -p /newroot/tmp/share /newroot/dev/shm
		mount -t tmpfs tmpfs /newroot/dev/shm
		mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 share /newroot/tmp/share
		chroot /newroot /bin/bash /tmp/share/guest.sh >/newroot/tmp/share/guest.log 2>&1
		echo \$? >/newroot/tmp/share/guest.rc
		sync
		poweroff -f
	EOF
}

make_initrd() {
	local root=$cache/kernel release work m f
	release=$(ls "$root/lib/modules")
	work=$(mktemp -d)
	mkdir -p "$work"/{bin,dev,proc,sys,tmp,newroot,rw,"lib/modules/$release"}
	cp "$(command -v busybox)" "$work/bin/busybox"
	for f in sh mount modprobe mkdir echo poweroff chroot sync; do
		ln -s busybox "$work/bin/$f"
	done
	depmod -b "$root" "$release"
	for m in $modules; do
		modprobe -d "$root" -S "$release" --show-depends "$m" 2>/dev/null |
			awk '$1 == "insmod" { print $2 }'
	done | sort -u | while read -r f; do
		mkdir -p "$work/$(dirname "${f#"$root"/}")"
		cp "$f" "$work/${f#"$root"/}"
	done
	cp "$root/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} \
		"$work/lib/modules/$release/"
	depmod -b "$work" "$release"
	init_script >"$work/init"
	chmod +x "$work/init"
	(cd "$work" && find . | cpio -o -H newc --quiet) >"$cache/initrd.$$"
	mv "$cache/initrd.$$" "$cache/initrd"
	rm -rf "$work"
}

requires_machines() {
	local missing= p
	[ "$(id -u)" = 0 ] || skip 'a machine reads the whole root: be root'
	[ "$(uname -m)" = x86_64 ] || skip 'the machines are of x86-64'
	for p in qemu-system-x86_64 busybox cpio modprobe depmod rdma; do
		command -v "$p" >/dev/null || missing="$missing $p"
	done
	[ -z "$missing" ] || skip "no$missing; packages $packages"
	mkdir -p "$cache"
	[ -d "$cache/kernel" ] || fetch_kernel ||
		skip "no kernel: 'apt-get download' of Debian's linux-image failed"
	[ "$cache/initrd" -nt "${BASH_SOURCE[0]}" ] || make_initrd
}

requires_verbs() {
	case $HELPERS in
	/tmp/*) skip 'a machine has a /tmp of its own: build elsewhere' ;;
	esac
	grep -q '^#define HAVE_VERBS' "${HELPERS%/*/*}/config.h" ||
		skip 'configured without libibverbs (package libibverbs-dev)'
}

# requires_mounts [PROGRAM...] - what guest_mounts needs, and these.
requires_mounts() {
	local p
	requires_machines
	requires_verbs
	for p in redis-server redis-cli jq getfattr "$@"; do
		command -v "$p" >/dev/null || skip "no $p"
	done
}

# machine DIR NUMBER [QEMU-ARGUMENT...] - in the background; $! is its process.
# Its interface eth0 has a MAC address by its number.
machine() {
	local dir=$1 number=$2
	shift 2
	rm -f "$dir"/guest.{log,rc}
	qemu-system-x86_64 -accel tcg -m 1024 \
		-nodefaults -no-user-config -display none -no-reboot \
		-kernel "$(echo "$cache"/kernel/boot/vmlinuz-*)" \
		-initrd "$cache/initrd" -append 'console=ttyS0 quiet panic=-1
		mitigations=off nokaslr random.trust_cpu=on' \
		-serial "file:$dir/serial" -device virtio-rng-pci \
		-device "virtio-net-pci,netdev=n,mac=52:54:00:00:00:0$number,romfile=" \
		-fsdev local,id=h,path=/,security_model=none,readonly=on,multidevs=remap \
		-device virtio-9p-pci,fsdev=h,mount_tag=host \
		-fsdev local,id=s,path="$dir",security_model=none \
		-device virtio-9p-pci,fsdev=s,mount_tag=share "$@" &
}

# What each guest.sh begins with: an address, and a card on it. (The options are
# of programs with sanitizers, whose reports go to guest.log.)
guest_begins() {
	cat <<-EOF
		export PATH=/usr/sbin:/usr/bin:/sbin:/bin
		set -eE
		trap 'echo "line \$LINENO: \$BASH_COMMAND: \$?"' ERR
		ip link set lo up
		ip address add $1/24 dev eth0
		ip link set eth0 up
		rdma link add rxe0 type rxe netdev eth0
		dmesg -n 1
		export ASAN_OPTIONS=exitcode=66:detect_stack_use_after_return=1
		export UBSAN_OPTIONS=exitcode=66:halt_on_error=1:print_stacktrace=1
		export LSAN_OPTIONS='${LSAN_OPTIONS:-}'
	EOF
}

# machine_ends DIR PROCESS - wait for it; its guest.sh must have succeeded.
machine_ends() {
	wait "$2" || true
	[ -f "$1/guest.rc" ] || {
		tail -n 40 "$1/serial" || true
		fail "the machine of $1 did not come to its end"
	}
	cat "$1/guest.log"
	[ "$(cat "$1/guest.rc")" = 0 ] || fail "guest.sh: $(cat "$1/guest.rc")"
}

# What both of two machines with mounts begin with, after guest_begins; $1: which
# one. Names of blocks tell how far the other one is.
guest_mounts() {
	cat <<-EOF
		kvfs='$KVFS' me=$1
		mkdir -p /tmp/m /tmp/state
		printf '1 %064d\n' 7 >/tmp/key
		chmod 600 /tmp/key
		look() {
			'$KVFS' nodes /tmp/m || true
			tail -n 30 /tmp/state/kvfs.log || true
			exit 1
		}
		until_it() {
			local i
			for i in \$(seq 600); do
				eval "\$1" && return
				sleep 0.2
			done
			echo "in vain: \$1"
			look
		}
		second_card() { # on eth1
			ip address add 10.9.1.\$me/24 dev eth1
			ip link set eth1 up
			rdma link add rxe1 type rxe netdev eth1
		}
		cable() { echo "set_link m \$1" >/dev/ttyS1; } # on|off: eth1's
		mount_it() {
			'$KVFS' mount /tmp/m -o pool=${2:-128M},state=/tmp/state,meta=redis://10.9.0.1:6379,cluster-key-file=/tmp/key,listen=10.9.0.\$me,deadline=20,\$1
		}
		redis_answers() { until_it 'redis-cli -h 10.9.0.1 ping >/dev/null 2>&1'; }
		redis_starts() {
			redis-server --bind 10.9.0.1 --protected-mode no --save '' \
				--daemonize yes --dir /tmp >/dev/null
			redis_answers
		}
		published() { # NAME in kv/n
			until_it "[ \"\\\$(getfattr --only-values --absolute-names \
				-n user.kvfs.state /tmp/m/kv/n/\$1)\" = published ]"
		}
		# Redis ends with its machine: not before the other one has left.
		alone() { until_it '[ "\$(jq .live </tmp/m/.kvfs/nodes)" = 1 ]'; }
		via() { jq -r '.nodes[] | select(.self | not) | .transport' </tmp/m/.kvfs/nodes; }
		put() { # NAME LINES
			seq \$2 >/tmp/m/kv/n/\$1.tmp
			mv -T /tmp/m/kv/n/\$1.tmp /tmp/m/kv/n/\$1
		}
		# A lookup that Redis does not answer in 20 ms is a miss.
		same_now() {
			seq \$2 | cmp -s - /tmp/m/kv/n/\$1
			case \$? in
			0) ;;
			1) echo "other bytes: \$1"; look ;;
			*) return 1 ;;
			esac
		}
		same() { # NAME LINES
			until_it "same_now \$1 \$2"
		}
	EOF
}

# Of machines that read each other's blocks in kv/n, after guest_mounts. What they
# tell each other goes through Redis, whatever becomes of the nodes.
guest_blocks() {
	cat <<-EOF
		blocks='$HELPERS/blocks -s 400000' small='$HELPERS/blocks -s 100 -f 1000'
		large='$HELPERS/blocks -s 2000000'
	EOF
	cat <<-'EOF'
		tell() { redis-cli -h 10.9.0.1 set told:$1 1 >/dev/null; }
		told() { until_it "[ \"\$(redis-cli -h 10.9.0.1 get told:$1)\" = 1 ]"; }
		figure() { awk "\$1 == \"$1\" { print \$2 }" /tmp/m/.kvfs/stats; }
		card() { # FIGURE [CARD]: of this one, or of all
			jq "[.devices[] | select(.device | startswith(\"${2-rxe}\")) |
				.$1] | add // 0" </tmp/m/.kvfs/nodes
		}
		# To the first error, if there is one: a wrong byte is none. The
		# numbers of what was read are in /tmp/got-FIRST.
		read_some() { # FIRST COUNT
			local rc=0
			$blocks -f $1 -n $2 -t 60 -p check /tmp/m/kv/n \
				>/tmp/got-$1 2>/tmp/error-$1 || rc=$?
			cat /tmp/error-$1
			[ $rc -le 1 ] || { echo "a read hangs: $rc"; look; }
			! grep -E 'wrong byte|bytes, not' /tmp/error-$1 || look
		}
	EOF
}

# joined DIR NUMBER on|off - a machine with two interfaces, each joined to that of
# another machine: one is the server of the sockets. What it writes to ttyS1 are
# commands to its emulator.
joined() {
	local net="addr.type=unix,server=$3,addr.path=$TMPDIR/net"
	mkfifo "$1/monitor.in" "$1/monitor.out"
	machine "$1" "$2" -netdev "stream,id=n,$net" -netdev "stream,id=m,$net-1" \
		-device "virtio-net-pci,netdev=m,mac=52:54:00:00:01:0$2,romfile=" \
		-chardev "pipe,id=c,path=$1/monitor" -mon c -serial "file:$1/monitor.in"
}

# two_machines A B - the guest.sh of two folders, joined by two networks; both must
# succeed. A's links must stay up: where one is down, the emulator of B, whose end
# of the socket blocks (QEMU 7.2), stands still.
two_machines() {
	local a=$1 b=$2 pid_a pid_b
	joined "$b" 2 on
	pid_b=$!
	until [ -S "$TMPDIR/net-1" ]; do
		kill -0 $pid_b || fail 'the second machine did not start'
		sleep 0.1
	done
	joined "$a" 1 off
	pid_a=$!
	machine_ends "$b" $pid_b
	machine_ends "$a" $pid_a
}
