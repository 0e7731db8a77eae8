#!/bin/bash
# Puts the checkout where it is on the host, runs what the host asks for, hands the results back and switches off.
disks=/dev/disk/by-id/virtio
here=/run/ambimesh-vm
export HOME=/root LANG=C.UTF-8 RESULTS=$here/results
checkout=$(<$here/checkout)
mkdir -p "$checkout" $RESULTS
mount $disks-checkout "$checkout" && mount $disks-python "$checkout/.venv" && cd "$checkout" &&
    bash $here/script </dev/null >/dev/ttyS1 2>&1
echo $? >$RESULTS/status
dmesg >$RESULTS/kernel.log
journalctl -b --no-pager >$RESULTS/journal.log
tar -cf $disks-results -C $RESULTS .
sync
systemctl poweroff --force --force
