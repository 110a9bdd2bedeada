"""Beam's job server for Spark, with Spark itself in it: master and workers are threads of its process."""

from __future__ import annotations

from pathlib import Path

from tests.platforms import job_server

# Of the versions that Beam's runner is made for, one that runs on Java 17.
VERSION = "3.5.0"
SCALA = "2.12"
BEAM_VERSION = "2.62.0"
JOB_SERVER = "org.apache.beam.runners.spark.SparkJobServerDriver"
# Beam takes these as given by the cluster, so that its runner does not bring them.
PROVIDED = ("core", "sql", "streaming", "catalyst", "network-common")
# Spark and its serialiser read private fields of these packages, which Java has closed since version 16.
OPENED = (
    "java.base/java.lang", "java.base/java.lang.invoke", "java.base/java.lang.reflect", "java.base/java.io",
    "java.base/java.net", "java.base/java.nio", "java.base/java.util", "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic", "java.base/sun.nio.ch", "java.base/sun.nio.cs",
    "java.base/sun.security.action", "java.base/sun.util.calendar",
)  # fmt: skip


def job_server_jar(cache: Path) -> Path:
    """Beam's job server for Spark, from the Maven index into the cache.

    Raises:
        NotToBeHad: Java or Maven is missing, or the index lacks a jar.
    """
    artifacts = [
        f"org.apache.beam:beam-runners-spark-3:{BEAM_VERSION}",
        *(f"org.apache.spark:spark-{part}_{SCALA}:{VERSION}" for part in PROVIDED),
        "com.esotericsoftware:kryo-shaded:4.0.2",
    ]
    return job_server.jar(cache, f"beam-runners-spark-{VERSION}-{BEAM_VERSION}", artifacts, JOB_SERVER, OPENED)
