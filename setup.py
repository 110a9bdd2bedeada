"""What is packed; everything else is said in pyproject.toml. Beam's --setup_file is this file too.

The wheel is the pipeline alone, beside the reader's own. A source distribution holds the reader as well, and so does
what is installed from it: Beam sends it to its workers, which have no other way to get one.
"""

import sys
from pathlib import Path

from setuptools import find_namespace_packages, setup

PACKAGES = ["data", "trainer_module", "components", "pipeline", "kubeflow"]

is_wheel_of_checkout = "bdist_wheel" in sys.argv and not Path(__file__).with_name("PKG-INFO").exists()
packed = PACKAGES if is_wheel_of_checkout else ["im2latex", *PACKAGES]
setup(packages=find_namespace_packages(include=[name for package in packed for name in (package, f"{package}.*")]))
