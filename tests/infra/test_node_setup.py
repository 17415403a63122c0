"""node_setup.sh, run for real with a home folder of its own; what would change the machine is recorded by stubs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

RECORD = '#!/bin/sh\nprintf "%s\\n" "$(basename "$0") $*" >>"$HOME/calls"\n'


class Machine:
    """A machine with a virtual environment whose packages have the right versions, unless `outdated`."""

    def __init__(self, folder: Path) -> None:
        self.home, self.stubs, self.venv = folder / "home", folder / "stubs", folder / "my venv"
        for path in (self.home, self.stubs, self.venv / "bin"):
            path.mkdir(parents=True)
        self.outdated = False
        self.stub("sudo", RECORD)
        self.stub("mountpoint", "#!/bin/sh\nexit 1\n")
        self.stub("lsblk", "#!/bin/sh\n")
        self._script(self.venv / "bin/pip", RECORD)

    def stub(self, name: str, text: str) -> None:
        self._script(self.stubs / name, text)

    def set_up(self, **variables: str) -> str:
        """Run the script; its output."""
        status = 1 if self.outdated else 0
        self._script(self.venv / "bin/python", f'#!/bin/sh\n[ "$2" = infra.versions ] && exit {status}\nexit 9\n')
        environment = {"HOME": str(self.home), "PATH": f"{self.stubs}:{os.defpath}", "IRAE_VENV": str(self.venv)}
        command = ["bash", ROOT / "infra/node_setup.sh"]
        return subprocess.run(command, env=environment | variables, check=True, capture_output=True, text=True).stdout

    def calls(self) -> list[str]:
        """Recorded command lines."""
        file = self.home / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def shell(self, name: str) -> str:
        """A variable in a new shell of the machine."""
        command = ["bash", "-c", f'. ~/.bashrc; printf %s "${name}"']
        environment = {"HOME": str(self.home), "PATH": os.defpath}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    return Machine(tmp_path)


def test_shells_have_the_settings(machine: Machine) -> None:
    store = "s3://bucket/a folder's $name"
    machine.set_up(IRAE_STORE=store, AWS_REGION="us-west-2", IRAE_CACHE=f"{machine.home}/big disk")
    assert machine.shell("IRAE_STORE") == store
    assert machine.shell("AWS_REGION") == machine.shell("AWS_DEFAULT_REGION") == "us-west-2"
    assert machine.shell("AWS_ENDPOINT_URL") == ""
    assert machine.shell("IRAE_CACHE") == f"{machine.home}/big disk" and Path(machine.home, "big disk").is_dir()
    assert machine.shell("PYTHONPATH") == str(ROOT)
    assert machine.shell("PATH").startswith(f"{machine.venv}/bin:")
    assert machine.shell("RAY_AUTH_MODE") == "token"


def test_a_second_run_changes_only_what_differs(machine: Machine) -> None:
    (machine.home / ".bashrc").write_text("case $- in *i*) ;; *) return;; esac\nexport LATER=1\n")
    for region in ("us-west-2", "us-west-2", "eu-west-1"):
        machine.set_up(AWS_REGION=region)
    assert (machine.home / ".bashrc").read_text().count("irae_env") == 1
    assert machine.shell("AWS_REGION") == "eu-west-1", "above the line that returns in non-interactive shells"
    assert machine.calls() == [], "packages are installed once"
    assert machine.shell("IRAE_CACHE") == f"{machine.home}/.cache/irae"


def test_outdated_packages_are_installed_in_the_tested_versions(machine: Machine) -> None:
    machine.outdated = True
    machine.set_up()
    torch, project = machine.calls()
    assert torch.startswith("pip install -q torch==") and torch.endswith(f"-c {ROOT}/constraints.txt")
    assert project == f"pip install -q -e {ROOT}[s3,cluster] -c {ROOT}/constraints.txt"


@pytest.mark.parametrize("formatted", [False, True])
def test_the_disk_of_an_aws_instance_becomes_the_cache(machine: Machine, formatted: bool) -> None:
    machine.stub(
        "lsblk",
        '#!/bin/sh\necho "/dev/nvme0n1 Amazon Elastic Block Store"\n'
        'echo "/dev/nvme1n1 Amazon EC2 NVMe Instance Storage"\n',
    )
    machine.stub("sudo", RECORD + f'[ "$1" != blkid ] || exit {0 if formatted else 2}\n')
    machine.stub("mkdir", RECORD)
    machine.set_up(IRAE_CACHE="nvme")
    user = f"{os.getuid()} -g {os.getgid()}"
    made = [] if formatted else ["sudo mkfs.ext4 -q /dev/nvme1n1"]
    assert machine.calls() == [
        *("sudo mkdir -p /mnt/nvme", "sudo blkid /dev/nvme1n1", *made, "sudo mount /dev/nvme1n1 /mnt/nvme"),
        *(f"sudo install -d -o {user} /mnt/nvme/irae", "mkdir -p /mnt/nvme/irae"),
    ]
    assert machine.shell("IRAE_CACHE") == "/mnt/nvme/irae"


def test_without_such_a_disk_the_cache_is_in_the_home_folder(machine: Machine) -> None:
    machine.set_up(IRAE_CACHE="nvme")
    assert machine.calls() == [] and machine.shell("IRAE_CACHE") == f"{machine.home}/.cache/irae"


def test_a_missing_environment_is_created_and_a_failed_installation_leaves_no_settings(machine: Machine) -> None:
    """With the real venv module."""
    machine.stub("python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    machine.stub("grep", "#!/bin/sh\nexit 7\n")  # finds no version of torch
    machine.stub("pip", "#!/bin/sh\nexit 1\n")
    environment = {"HOME": str(machine.home), "PATH": f"{machine.stubs}:{os.defpath}", "PIP_NO_INDEX": "1"}
    result = subprocess.run(["bash", ROOT / "infra/node_setup.sh"], env=environment, capture_output=True)
    assert result.returncode != 0
    assert (machine.home / ".irae/venv/bin/python").exists()
    assert not (machine.home / ".irae_env").exists()
