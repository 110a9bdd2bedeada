"""Beam's job servers for Flink and Spark, put together from the jars of their parts.

Beam also publishes each with all that it needs in one jar, which not every index has; these are the same classes in the
jars of each project, and one beside them that names them.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>im2latex</groupId>
  <artifactId>job-server</artifactId>
  <version>1</version>
  <dependencies>
{}
  </dependencies>
</project>
"""
DEPENDENCY = """    <dependency>
      <groupId>{}</groupId>
      <artifactId>{}</artifactId>
      <version>{}</version>
    </dependency>"""


class NotToBeHad(Exception):
    """What the cluster is made of is not on this machine and cannot be fetched; one sentence says what."""


def jar(cache: Path, name: str, artifacts: Sequence[str], main: str, opened: Sequence[str] = ()) -> Path:
    """A job server, from the Maven index into the cache.

    Args:
        cache: folder of what was fetched before.
        name: name of its folder there.
        artifacts: group:artifact:version of what it consists of; what these need comes with them.
        main: its class.
        opened: packages that it reads private fields of.

    Raises:
        NotToBeHad: Java or Maven is missing, or the index lacks a jar.
    """
    if shutil.which("java") is None:
        raise NotToBeHad("java is missing (on Debian and Ubuntu: apt-get install default-jre-headless)")
    folder = cache / name
    made = folder / "job-server.jar"
    if not folder.exists():
        if shutil.which("mvn") is None:
            raise NotToBeHad("mvn is missing (on Debian and Ubuntu: apt-get install maven)")
        with whole_or_not_at_all(folder) as partial:
            dependencies = "\n".join(DEPENDENCY.format(*artifact.split(":")) for artifact in artifacts)
            (partial / "pom.xml").write_text(POM.format(dependencies), encoding="utf-8")
            command = ["mvn", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=."]
            fetched = subprocess.run(command, cwd=partial, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if fetched.returncode:
                errors = [line for line in fetched.stdout.splitlines() if line.startswith("[ERROR]")]
                raise NotToBeHad(f"Maven does not bring Beam's runner: {errors[0] if errors else fetched.stderr}")
            _name_jars(sorted(path.name for path in partial.glob("*.jar")), partial / made.name, main, opened)
    return made


def _name_jars(names: Sequence[str], jar: Path, main: str, opened: Sequence[str]) -> None:
    """Writes a jar that starts the job server from these jars beside it."""
    attributes = {"Manifest-Version": "1.0", "Main-Class": main, "Class-Path": " ".join(names)}
    if opened:
        attributes["Add-Opens"] = " ".join(opened)
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "".join(map(_folded, attributes.items())))


def _folded(attribute: tuple[str, str]) -> str:
    # A line of a manifest has at most 72 bytes, line break not counted; the next goes on with it after a space.
    text = ": ".join(attribute)
    return "\n".join([text[:72], *(f" {text[at : at + 71]}" for at in range(72, len(text), 71)), ""])


@contextlib.contextmanager
def whole_or_not_at_all(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which is there under its own name only when that is done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial)
        raise
