import os, time
from contextlib import ExitStack
from pathlib import Path
from flashpods_dev.lab.machine import LabMachine
from flashpods_dev.machine import inside
from flashpods_dev.netns import Namespace

def test_boot():
    with ExitStack() as st:
        ns = Namespace(st)
        state = Path(os.environ["FLASHPODS_LAB_STATE"])
        t = time.time()
        m = st.enter_context(LabMachine("host", ns, [Path(os.environ["FLASHPODS_LAB_ROOT"])], inside(), state / "host"))
        print("up", time.time() - t)
        print(m.succeed("uname -n; systemctl list-units --state=running --no-legend; id flashpods; ls -la /run/user"))
        t = time.time(); m.shutdown(); print("down", time.time() - t)
        t = time.time(); m.boot(); print("again", time.time() - t); print(m.succeed("journalctl --list-boots"))
