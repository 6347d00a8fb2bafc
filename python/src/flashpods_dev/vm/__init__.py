"""``./dev vm``: the stack on a machine whose kernel enforces limits, whatever this one does.

A Debian of a later release boots in QEMU, with its own kernel, cgroup v2 and systemd, takes the
checkout from a second disk, runs the experiments of ``python/tests/vm`` and powers off.
Without KVM the processor is emulated: everything takes about ten times as long, and ends the same.
"""
