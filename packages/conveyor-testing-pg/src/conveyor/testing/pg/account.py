"""As whom a server runs: PostgreSQL and PgBouncer refuse to run as root.

Root runs them in a user namespace of one account (`unshare`): not root inside, while outside the files stay
root's, so that nothing has to be copied or opened to others. Where namespaces are closed, as in most
containers, they run as an account that is there already. Neither makes an account, and neither changes the
mode of a folder that is not ours.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conveyor.testing.pg.errors import NotUsableError

#: The accounts that a server may run as, best first.
ACCOUNTS: Final = ("nobody", "postgres")


@dataclass(frozen=True, kw_only=True)
class Account:
    """How to start a program so that it does not run as root."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    def popen(
        self, *command: str, home: Path, log: Path, environ: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a program in the folder `home`, with what it says appended to a log."""
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603
                [*self.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=home,
                env={**os.environ, "HOME": str(home), "LC_ALL": "C", **environ},
                user=self.user,
                group=self.group,
                extra_groups=None if self.user is None else [],
            )

    def own(self, folder: Path) -> None:
        """Give a folder of ours to the account."""
        if self.user is not None and self.group is not None:
            os.chown(folder, self.user, self.group)

    def reach(self, folder: Path, root: Path, into: Path) -> Path:
        """Where the account finds `folder`, which is in `root`: there, or in a copy of `root` in `into`."""
        if self.user is None or all(part.stat().st_mode & stat.S_IXOTH for part in (folder, *folder.parents)):
            return folder
        for source in (
            root,
            root.with_name(f"{root.name}.libs"),
        ):  # where a wheel's programs have their libraries
            if source.exists():
                skip = shutil.ignore_patterns("include", "__pycache__")
                shutil.copytree(source, into / source.name, symlinks=True, ignore=skip, dirs_exist_ok=True)
        return into / root.name / folder.relative_to(root)


def unprivileged() -> Account:
    """The account for a server. Raises NotUsableError if this is root, and there is no other."""
    if os.geteuid() != 0:
        return Account()
    entries = []
    for name in ACCOUNTS:
        try:
            entries.append(pwd.getpwnam(name))
        except KeyError:
            continue
    if not entries:
        raise NotUsableError(f"as root it needs one of the accounts {', '.join(ACCOUNTS)}, and none exists")
    entry = entries[0]
    prefix = namespace(entry.pw_uid, entry.pw_gid)
    if works(prefix):
        return Account(prefix=prefix)
    return Account(user=entry.pw_uid, group=entry.pw_gid)


def namespace(user: int, group: int) -> tuple[str, ...]:
    """What runs a program in a user namespace, as this user and group."""
    return ("unshare", "--user", f"--map-user={user}", f"--map-group={group}", "--")


def works(prefix: tuple[str, ...]) -> bool:
    """Whether a program starts with that before it."""
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
