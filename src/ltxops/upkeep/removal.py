"""Remove old files and emptied folders, each proven again at the last moment, or (dry run) only say so."""

import errno
import fcntl
import os
import stat
from array import array
from collections.abc import Callable, Sequence

from ltxops.upkeep.in_use import READ_FLAGS, OpenFiles, Use, claim
from ltxops.upkeep.names import changed_at, printable
from ltxops.upkeep.needed import Needed
from ltxops.upkeep.oldfile import Name, OldFile
from ltxops.upkeep.output_root import FileKey, OutputRoot, file_key
from ltxops.upkeep.report import Report
from ltxops.upkeep.walk import Age, Folder, Replaced, opened


class Interrupted(Exception):
    """The run has to end now; nothing is in the middle of being removed."""


class Remover:
    """Takes what a walk found out of the tree. A dry run makes every check and removes nothing."""

    def __init__(
        self,
        root: OutputRoot,
        age: Age,
        open_files: OpenFiles,
        needed: Needed,
        report: Report,
        stopped: Callable[[], bool],
    ) -> None:
        self._root = root
        self._age = age
        self._open_files = open_files
        self._needed = needed
        self._anything_needed = bool(needed)
        self._report = report
        self._dry_run = report.dry_run
        self._stopped = stopped
        # What this run removed, as 64-bit hashes of the paths: eight bytes each, however many there are.
        self._gone = array("q")
        self._counted: set[str] = set()

    def go_on(self) -> None:
        """Raise Interrupted when the run has to end."""
        if self._stopped():
            raise Interrupted

    def remove(self, file: OldFile) -> int:
        """Remove every name of `file` if nobody uses it; returns the bytes that the disk got back.

        All names go in one run: removing one sets a new ctime, which would make the others look young.
        Raises Interrupted before the first, as `remove_at_hand` does.
        """
        self.go_on()
        for index, (folder, name) in enumerate(file.names):
            try:
                with opened(self._root, folder) as fd:
                    return self._remove(fd, file.names[index:], file.key, (file.mtime_ns, file.ctime_ns))
            except FileNotFoundError:
                continue  # this name is gone or is another file by now; a second name may still be ours
            except Replaced:
                self._replaced(folder)
            except OSError as error:
                self._left_alone(folder.join(name), error)
                return 0
        return 0

    def remove_at_hand(self, folder: Folder, fd: int, name: str, info: os.stat_result) -> int:
        """Remove a file with one name whose folder is open as `fd`; returns the bytes that came back."""
        self.go_on()
        key, times = (info.st_dev, info.st_ino), (info.st_mtime_ns, info.st_ctime_ns)
        try:
            return self._remove(fd, ((folder, name),), key, times)
        except FileNotFoundError:
            folder.remaining -= 1
        except OSError as error:
            self._left_alone(folder.join(name), error)
        return 0

    def remove_plain(self, folder: Folder, fd: int, name: str) -> bool:
        """Remove a file that is old, has one name, and that nobody has open or needs: the way of nearly all.

        Returns False, with nothing done, if it is not such a file: then `remove_at_hand` knows why.
        """
        self.go_on()
        if self._anything_needed:
            return False
        try:
            file = os.open(name, READ_FLAGS, dir_fd=fd)
        except OSError:
            return False
        try:
            info = os.fstat(file)
            if (
                info.st_nlink != 1
                or not stat.S_ISREG(info.st_mode)
                or not self._age.is_old(info)
                or self._open_files.holds((info.st_dev, info.st_ino))
            ):
                return False
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            if not self._dry_run:
                os.unlink(name, dir_fd=fd)
        except OSError:
            return False
        finally:
            os.close(file)
        path = folder.join(name)
        self._gone.append(hash(path))
        folder.remaining -= 1
        self._report.add_deleted(path, info.st_blocks * 512)
        return True

    def _remove(self, fd: int, names: Sequence[Name], key: FileKey, times: tuple[int, int]) -> int:
        if self._anything_needed and self._needed.keeps(key, changed_at(*times, self._age.now_ns)):
            for folder, name in names:
                self._report.add_needed(folder.join(name))
            return 0
        use, claimed = claim(names[0][1], fd, key, self._open_files)
        try:
            if claimed >= 0:
                info = os.fstat(claimed)
            else:
                info = os.stat(names[0][1], dir_fd=fd, follow_symlinks=False)
            if (info.st_dev, info.st_ino) != key:
                raise FileNotFoundError(errno.ENOENT, "replaced by another file", names[0][1])
            if use is not Use.FREE or (info.st_mtime_ns, info.st_ctime_ns) != times:
                self._keep(names, use)
                return 0
            return self._unlink_all(fd, names, info)
        finally:
            if claimed >= 0:
                os.close(claimed)  # gives the lock and the lease back

    def _keep(self, names: Sequence[Name], use: Use) -> None:
        if use is Use.IN_USE:
            self._report.kept_open += len(names)
        elif use is Use.UNKNOWN:
            folder, name = names[0]
            self._report.add_problem(
                f"{printable(folder.join(name))} was kept because this user cannot tell "
                "whether it is open: run the cleaner as the owner of the outputs or as root"
            )
        else:  # changed since it was seen
            self._report.kept_young += len(names)

    def _unlink_all(self, fd: int, names: Sequence[Name], info: os.stat_result) -> int:
        removed = [self._unlink(fd, *names[0])]
        for folder, name in names[1:]:
            path = self._unlink_elsewhere(folder, name, (info.st_dev, info.st_ino))
            if path is not None:
                removed.append(path)
        freed = info.st_blocks * 512 if len(removed) == info.st_nlink else 0
        for path in removed[:-1]:
            self._report.add_deleted(path, 0)
        self._report.add_deleted(removed[-1], freed)
        return freed

    def _unlink(self, fd: int, folder: Folder, name: str) -> str:
        """Remove one name; returns its path under the root."""
        if not self._dry_run:
            os.unlink(name, dir_fd=fd)
        path = folder.join(name)
        self._gone.append(hash(path))
        folder.remaining -= 1
        if not folder.remaining:
            self.remove_if_empty(folder)
        return path

    def _unlink_elsewhere(self, folder: Folder, name: str, key: FileKey) -> str | None:
        try:
            with opened(self._root, folder) as fd:
                if file_key(os.stat(name, dir_fd=fd, follow_symlinks=False)) != key:
                    return None
                return self._unlink(fd, folder, name)
        except FileNotFoundError:
            return None
        except Replaced:
            self._replaced(folder)
        except OSError as error:
            self._left_alone(folder.join(name), error)
        return None

    def removed(self) -> frozenset[int]:
        """Return the hashes of the paths that this run took away (a dry run: would have)."""
        return frozenset(self._gone)

    def remove_link(self, folder: Folder, name: str, dangling: Callable[[os.stat_result], bool]) -> None:
        """Remove a symbolic link if, by what the kernel says of it, it is `dangling`."""
        try:
            with opened(self._root, folder) as fd:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISLNK(info.st_mode) and dangling(info):
                    self._report.add_deleted(self._unlink(fd, folder, name), 0)
        except FileNotFoundError:
            return
        except Replaced:
            self._replaced(folder)
        except OSError as error:
            self._left_alone(folder.join(name), error)

    def remove_if_empty(self, folder: Folder) -> None:
        """Remove `folder` if it was old and nothing remains in it; then the same for the one around it."""
        parent = folder.parent
        if parent is None or folder.remaining or not (folder.old and folder.complete):
            return
        if self._open_files.holds(folder.key):
            return
        try:
            if not self._dry_run:
                with opened(self._root, parent) as fd:
                    if file_key(os.stat(folder.name, dir_fd=fd, follow_symlinks=False)) != folder.key:
                        raise Replaced(folder.path)
                    os.rmdir(folder.name, dir_fd=fd)
        except FileNotFoundError:
            pass  # somebody else removed it
        except Replaced:
            self._replaced(folder)
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # else somebody just put a file into it
                self._left_alone(folder.path, error)
            return
        else:
            if folder.path not in self._counted:
                self._report.deleted_folders += 1
                self._gone.append(hash(folder.path))
            if self._dry_run:
                self._counted.add(folder.path)  # it is still there, and another look meets it again
        parent.remaining -= 1
        self.remove_if_empty(parent)

    def _replaced(self, folder: Folder) -> None:
        self._report.add_problem(f"{printable(folder.path)} was replaced during the run and left alone")

    def _left_alone(self, path: str, error: OSError) -> None:
        self._report.add_problem(f"{printable(path)} was left alone ({error.strerror})")
