#!/bin/bash
# Puts the checkout where it is on the host, runs what the host asks for, hands the results back and switches off.
disks=/dev/disk/by-id/virtio
mkdir -p /run/ambimesh-vm/request /run/ambimesh-vm/results
tar -xf $disks-request -C /run/ambimesh-vm/request
checkout=$(</run/ambimesh-vm/request/checkout)
mkdir -p "$checkout"
mount $disks-checkout "$checkout"
mount $disks-python "$checkout/.venv"
cd "$checkout" || exit
export HOME=/root LANG=C.UTF-8 RESULTS=/run/ambimesh-vm/results
bash /run/ambimesh-vm/request/script </dev/null >/dev/hvc0 2>&1
echo $? >"$RESULTS/status"
dmesg >"$RESULTS/kernel.log"
journalctl -b --no-pager >"$RESULTS/journal.log"
tar -cf $disks-results -C "$RESULTS" .
sync
systemctl poweroff --force --force
