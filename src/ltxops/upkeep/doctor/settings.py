"""What the doctor must know of a host beside its programs: the part `doctor` of the host description."""

import json
from dataclasses import dataclass
from pathlib import Path

from ltxops.errors import BadInput
from ltxops.units import parse_size
from ltxops.upkeep.host import Host, load


@dataclass(frozen=True)
class Settings:
    """The host as the playbook made it. Empty texts stand for what this host does not have."""

    host: Host
    etc: Path
    state: Path
    logs: Path
    workspace: Path
    models: Path
    engine_dir: Path
    engine_venv: Path
    engine_user: str
    engine: str
    cleaner: str
    cron_file: Path
    min_free_bytes: int
    hub: str
    gpu_required: bool
    nvidia_smi: str
    open_ports: tuple[int, ...]
    tls_certificate: str

    @property
    def is_ours(self) -> bool:
        """Whether the whole machine is ours to judge; in scope user it is somebody's desk."""
        return self.host.scope == "host"


def read(file: str) -> Settings:
    """Read the description. Raises BadInput that names the file and the key."""
    host = load(file)
    part = json.loads(Path(file).read_text()).get("doctor")
    if not isinstance(part, dict):
        raise BadInput(f"{file}: there is no doctor in it: provision the host again")
    try:
        return Settings(
            host=host,
            etc=Path(part["etc"]),
            state=Path(part["state"]),
            logs=Path(part["logs"]),
            workspace=Path(part["workspace"]),
            models=Path(part["models"]),
            engine_dir=Path(part["engine_dir"]),
            engine_venv=Path(part["engine_venv"]),
            engine_user=str(part["engine_user"]),
            engine=str(part["engine"]),
            cleaner=str(part["cleaner"]),
            cron_file=Path(part["cron_file"]),
            min_free_bytes=parse_size(part["min_free"], "doctor.min_free"),
            hub=str(part["hub"]),
            gpu_required=bool(part["gpu_required"]),
            nvidia_smi=str(part["nvidia_smi"]),
            open_ports=tuple(int(port) for port in part["open_ports"]),
            tls_certificate=str(part["tls_certificate"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{file}: doctor is not as expected ({error!r}): provision the host again") from None
