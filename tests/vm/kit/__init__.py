"""A virtual machine with Debian 12 as its users have it: Debian's kernel, systemd, cgroup v2 alone.

What belongs here: making the machine's disk, starting it with qemu, running pytest in it on the checkout as it is, and
programs that several tests start there. What does not: tests (the folder above), and anything the product needs. The
machine has no network but what programs make inside of it. May import ``mesh`` and ``tests.e2e.kit``.
"""
