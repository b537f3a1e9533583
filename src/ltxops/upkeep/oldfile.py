"""A file that is old enough to go, with all its names."""

import os
from dataclasses import dataclass, field

from ltxops.upkeep.output_root import FileKey, file_key
from ltxops.upkeep.walk import Folder

Name = tuple[Folder, str]


@dataclass(eq=False)
class OldFile:
    """One file (an inode) that is old enough to go, with every name of it that was found so far."""

    key: FileKey
    bytes: int
    """What the disk gets back when its last name goes: allocated blocks, not the length of a sparse file."""
    links: int
    mtime_ns: int
    ctime_ns: int
    names: list[Name] = field(default_factory=list)

    @classmethod
    def of(cls, info: os.stat_result) -> "OldFile":
        """Return the file that `info` describes, still without a name."""
        return cls(file_key(info), info.st_blocks * 512, info.st_nlink, info.st_mtime_ns, info.st_ctime_ns)
