"""What the engine is started with, and the folders that follow from it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """Where weights, uploads and results lie, laid out as under ComfyUI's `--base-directory`."""

    models: Path
    input: Path
    output: Path
    temp: Path

    def of_type(self, kind: str) -> Path | None:
        """Return the folder that the API calls `input`, `output` or `temp`; None for any other word."""
        return {"input": self.input, "output": self.output, "temp": self.temp}.get(kind)

    def create(self) -> None:
        """Create the folders the engine itself writes to. Weights are somebody else's to place."""
        for folder in (self.input, self.output, self.temp):
            folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Options:
    """One engine: its address (port 0: any free one), its folders, and how slowly a sampler step goes."""

    host: str
    port: int
    folders: Folders
    seconds_per_step: float = 0.0
    argv: tuple[str, ...] = ()
    #: The largest request taken; the default is ComfyUI's.
    max_upload_bytes: int = 100 * 1024 * 1024

    @property
    def features(self) -> dict[str, object]:
        """What `/features` and the WebSocket say of this server."""
        return {"supports_preview_metadata": False, "max_upload_size": self.max_upload_bytes}


def folders_under(
    base: Path, output: Path | None = None, input_: Path | None = None, temp: Path | None = None
) -> Folders:
    """Lay out the folders under `base`; each but models/ can be moved elsewhere.

    As in ComfyUI, a `temp` that is given is the parent of the folder temp/.
    """
    base = base.absolute()
    return Folders(
        models=base / "models",
        input=(input_ or base / "input").absolute(),
        output=(output or base / "output").absolute(),
        temp=(temp or base).absolute() / "temp",
    )
