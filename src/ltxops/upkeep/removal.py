"""Remove old files and empty folders, each proven again at the last moment, or (dry run) only say so."""

import errno
import os
import stat

from ltxops.upkeep.in_use import OpenFiles, Use, claimed
from ltxops.upkeep.output_root import FileKey, OutputRoot, file_key
from ltxops.upkeep.report import Report
from ltxops.upkeep.survey import Folder, OldFile, Replaced, Survey, changed_at, opened, printable


class Remover:
    """Takes what a survey found out of the tree. A dry run makes every check and removes nothing."""

    def __init__(self, root: OutputRoot, open_files: OpenFiles, report: Report) -> None:
        self._root = root
        self._open_files = open_files
        self._report = report
        self._dry_run = report.dry_run
        self._gone: set[str] = set()

    def remove(self, file: OldFile) -> int:
        """Remove every name of `file` if nobody uses it; returns the bytes that the disk got back.

        All names go in one run: removing one sets a new ctime, which would make the others look young.
        """
        for index, (folder, name) in enumerate(file.names):
            try:
                with (
                    opened(self._root, folder) as fd,
                    claimed(name, fd, file.key, self._open_files) as (use, claimed_fd),
                ):
                    return self._remove_claimed(file, file.names[index:], fd, use, claimed_fd)
            except FileNotFoundError:
                continue  # this name is gone or is another file by now; a second name may still be ours
            except Replaced:
                self._replaced(folder)
            except OSError as error:
                self._report.add_problem(f"{printable(folder.join(name))} was left alone ({error.strerror})")
                return 0
        return 0

    def _remove_claimed(
        self, file: OldFile, names: list[tuple[Folder, str]], first_fd: int, use: Use, claimed_fd: int
    ) -> int:
        report = self._report
        if use is Use.IN_USE:
            report.kept_open += len(names)
            return 0
        if use is Use.UNKNOWN:
            report.add_problem(
                f"{printable(names[0][0].join(names[0][1]))} was kept because this user cannot tell "
                "whether it is open: run the cleaner as the owner of the outputs or as root"
            )
            return 0
        if claimed_fd >= 0:
            info = os.fstat(claimed_fd)
        else:
            info = os.stat(names[0][1], dir_fd=first_fd, follow_symlinks=False)
        if (info.st_mtime_ns, info.st_ctime_ns) != (file.mtime_ns, file.ctime_ns):
            report.kept_young += len(names)
            return 0
        removed = [names[0]] if self._unlink(first_fd, *names[0], file.key) else []
        removed += [pair for pair in names[1:] if self._unlink_elsewhere(*pair, file.key)]
        freed = info.st_blocks * 512 if removed and len(removed) == info.st_nlink else 0
        for number, (folder, name) in enumerate(removed, start=1):
            report.add_deleted(folder.join(name), freed if number == len(removed) else 0)
        return freed

    def _unlink_elsewhere(self, folder: Folder, name: str, key: FileKey) -> bool:
        try:
            with opened(self._root, folder) as fd:
                return self._unlink(fd, folder, name, key)
        except FileNotFoundError:
            return False
        except Replaced:
            self._replaced(folder)
        except OSError as error:
            self._report.add_problem(f"{printable(folder.join(name))} was left alone ({error.strerror})")
        return False

    def _unlink(self, fd: int, folder: Folder, name: str, key: FileKey) -> bool:
        if file_key(os.stat(name, dir_fd=fd, follow_symlinks=False)) != key:
            return False
        if not self._dry_run:
            os.unlink(name, dir_fd=fd)
            folder.mtime_ns = os.fstat(fd).st_mtime_ns
        folder.entries -= 1
        self._gone.add(folder.join(name))
        return True

    def remove_dangling_links(self, survey: Survey, now_ns: int, age_ns: int) -> None:
        """Remove links whose target under the root is gone; a link that leads outside is only reported.

        A link that was dangling before this run must be old itself: its target may still be on its way.
        """
        for folder, name, meaning in survey.links:
            if meaning == "..":
                self._report.add_problem(
                    f"{printable(folder.join(name))} leads out of the output folder and was not followed: "
                    "remove the link"
                )
            elif meaning:
                try:
                    with opened(self._root, folder) as fd:
                        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                        old = changed_at(info.st_mtime_ns, info.st_ctime_ns, now_ns) <= now_ns - age_ns
                        dangling = meaning in self._gone or (old and self._is_missing(meaning))
                        link = stat.S_ISLNK(info.st_mode)
                        if link and dangling and self._unlink(fd, folder, name, file_key(info)):
                            self._report.add_deleted(folder.join(name), 0)
                except FileNotFoundError:
                    continue
                except Replaced:
                    self._replaced(folder)
                except OSError as error:
                    self._report.add_problem(
                        f"{printable(folder.join(name))} was left alone ({error.strerror})"
                    )

    def _is_missing(self, path: str) -> bool:
        try:
            os.stat(path, dir_fd=self._root.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return True
        return False

    def remove_empty_folders(self, survey: Survey) -> None:
        """Remove the old folders that are empty now, deepest first; never one in which something happened."""
        for folder in reversed(survey.folders):
            if folder.entries or folder.parent is None or self._open_files.holds(folder.key):
                continue
            try:
                with opened(self._root, folder) as fd:
                    untouched = os.fstat(fd).st_mtime_ns == folder.mtime_ns
                if untouched:
                    self._rmdir(folder, folder.parent)
            except FileNotFoundError:
                continue
            except Replaced:
                self._replaced(folder)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:  # somebody just put a file into it
                    self._report.add_problem(f"{printable(folder.path)} was left alone ({error.strerror})")

    def _rmdir(self, folder: Folder, parent: Folder) -> None:
        if not self._dry_run:
            with opened(self._root, parent) as fd:
                if file_key(os.stat(folder.name, dir_fd=fd, follow_symlinks=False)) != folder.key:
                    raise Replaced(folder.path)
                os.rmdir(folder.name, dir_fd=fd)
                parent.mtime_ns = os.fstat(fd).st_mtime_ns
        parent.entries -= 1
        self._report.deleted_folders += 1

    def _replaced(self, folder: Folder) -> None:
        self._report.add_problem(f"{printable(folder.path)} was replaced during the run and left alone")
