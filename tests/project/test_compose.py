"""docker-compose.yml and the image's entrypoint run what the Procfile says, and pass on every setting."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # comes with openapi-spec-validator
from honcho.environ import parse_procfile

from gateway.config import Settings
from gateway.config.renamed import RENAMED

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.unit
ENTRYPOINT = ROOT / "docker-entrypoint.sh"
OTHER_SERVICES = {"postgres", "rabbitmq", "setup", "proxy"}
SET_OTHERWISE = {"HOST", "PORT", "KEYS_DIR", "PROMETHEUS_MULTIPROC_DIR", "METRICS_DIR"}
"""By the image, or for all roles but Flower."""
READ_BY_FLOWER = {"FLOWER_BASIC_AUTH", "FLOWER_BROKER_API"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """Return the services of docker-compose.yml with merged keys."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def test_compose_runs_every_role_of_the_procfile_by_its_name(services: dict[str, Any]) -> None:
    roles = parse_procfile((ROOT / "Procfile").read_text()).processes
    assert services.keys() - OTHER_SERVICES == set(roles)
    assert all(services[name]["command"] == [name] for name in roles)


def test_compose_publishes_ports_on_loopback_only(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_compose_puts_the_proxy_in_front_of_the_api(services: dict[str, Any]) -> None:
    assert "ports" not in services["api"]
    assert services["api"]["environment"]["TRUSTED_PROXIES"] == "${TRUSTED_PROXIES:-1}"
    assert "./ops/nginx.conf:/etc/nginx/nginx.conf:ro" in services["proxy"]["volumes"]
    port = services["proxy"]["ports"][0].rpartition(":")[2]
    assert f"listen {port};" in (ROOT / "ops" / "nginx.conf").read_text()


def test_every_image_is_pinned_by_its_digest(services: dict[str, Any]) -> None:
    foreign = {service["image"] for service in services.values() if "build" not in service}
    [base] = re.findall(r"^ARG PYTHON=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert len(foreign) == 3
    for image in (*foreign, base):
        assert re.fullmatch(r"[a-z]+:\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}", image), image


def test_each_container_has_a_separate_metrics_folder(tmp_path: Path) -> None:
    variables = {"PATH": os.environ["PATH"], "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [str(ENTRYPOINT), "sh", "-c", 'echo "$METRICS_DIR" "$PROMETHEUS_MULTIPROC_DIR"']
    done = subprocess.run(command, check=True, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=10)
    shared, own = done.stdout.split()
    assert shared == str(tmp_path)
    assert Path(own).parent == tmp_path
    assert Path(own).is_dir()


def test_rabbitmq_of_compose_has_no_port_that_answers_without_a_password(services: dict[str, Any]) -> None:
    [plugins] = [volume for volume in services["rabbitmq"]["volumes"] if "/etc/rabbitmq/enabled_plugins" in volume]
    assert (ROOT / plugins.partition(":")[0]).read_text() == "[rabbitmq_management].\n"


def test_every_setting_reaches_every_role_in_compose(services: dict[str, Any]) -> None:
    settings = {name.upper() for name in Settings.model_fields} - SET_OTHERWISE | {renamed.old for renamed in RENAMED}
    for name in services.keys() - OTHER_SERVICES:
        assert settings - services[name]["environment"].keys() == set(), f"x-settings of docker-compose.yml, {name}"


def test_compose_passes_only_variables_that_a_role_reads(services: dict[str, Any]) -> None:
    settings = {name.upper() for name in Settings.model_fields} | {renamed.old for renamed in RENAMED}
    read = settings | set(re.findall(r"\$\{(\w+):-", (ROOT / "Procfile").read_text())) | READ_BY_FLOWER
    for name in services.keys() - OTHER_SERVICES:
        assert services[name]["environment"].keys() - read == set(), name


def test_the_entrypoint_becomes_the_role_itself_so_that_signals_reach_it(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("# a comment\nother: false\nrole: sh -c 'echo $$ ${GREETING:-hello}'\n")
    with subprocess.Popen([ENTRYPOINT, "role"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=10)
    assert output == f"{process.pid} hello\n"


def test_the_entrypoint_runs_any_other_command_unchanged(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("role: false\n")
    done = subprocess.run(
        [ENTRYPOINT, "printf", "%s|", "a b", "$HOME"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout == "a b|$HOME|"
