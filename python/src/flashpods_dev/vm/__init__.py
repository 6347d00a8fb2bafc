"""``./dev vm``: a HOST whose kernel enforces limits, whatever this machine's does.

Debian boots in QEMU, with its own kernel, cgroup v2 and systemd, from what the modules render; the
laptop is one of the lab's machines, and the scripts of ``checks/`` run on the two. Without KVM the
processor is emulated: everything takes about ten times as long, and ends the same.
"""
